//! The program as a child: arguments and lines in, lines and exit codes out.
#![allow(dead_code, missing_docs)]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::Value;

/// Long enough for a loaded machine, short enough to say that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iroh-rooms"));
    command
        .args(args)
        .env_remove("IROH_LIVE_ROOM")
        .env_remove("IROH_LIVE_TOPIC");
    command
}

pub fn run(args: &[&str]) -> Output {
    program(args).output().expect("the program runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running program; it ends with its handle.
pub struct Running {
    pub child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        let mut command = program(args);
        command
            .arg("--json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("each line is JSON");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self {
            child,
            input,
            lines,
        }
    }

    /// The next line of a type.
    pub fn line(&self, kind: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {kind} in time"));
            if line["type"] == kind {
                return line;
            }
        }
    }

    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// Asks it to end, as a service manager does, and returns its exit code.
    #[cfg(unix)]
    pub fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().expect("kill runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
