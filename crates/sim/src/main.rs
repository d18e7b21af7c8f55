//! `npm run sim -- [--seeds N] [--seed S] [--known] [--threads N] [--mutations] [--mutation NAME]
//! [--trace]`: runs N seeds from S on, and tells which fail, with the command that runs each again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use iroh_rooms_consensus::Mutation;
use iroh_rooms_sim::{KNOWN, Options, Report, Rule, Violation, run};

/// The rules that can be broken, and what has to notice it.
const MUTATIONS: [(&str, Mutation, Rule); 9] = [
    ("reuse-ids", Mutation::ReuseIds, Rule::IdsOnce),
    ("no-pre-vote", Mutation::NoPreVote, Rule::PreVote),
    ("ack-half", Mutation::AckHalf, Rule::Durable),
    ("ack-on-commit", Mutation::AckOnCommit, Rule::Durable),
    ("no-later-confs", Mutation::NoLaterConfs, Rule::Durable),
    ("no-fence", Mutation::NoFence, Rule::Fenced),
    (
        "stale-welcome",
        Mutation::StaleWelcome,
        Rule::CommittedWelcome,
    ),
    // Who began with such a snapshot makes a change once more that others do not.
    (
        "sessions-not-kept",
        Mutation::SessionsNotKept,
        Rule::SameState,
    ),
    ("doors-not-kept", Mutation::DoorsNotKept, Rule::SameDoor),
];

struct Args {
    seeds: u64,
    seed: u64,
    /// The seeds that once failed as well.
    known: bool,
    threads: u64,
    options: Options,
    mutations: bool,
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        seeds: 1,
        seed: 1,
        known: false,
        threads: 0,
        options: Options::default(),
        mutations: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            words
                .next()
                .and_then(|it| it.parse().ok())
                .ok_or(format!("{word} takes a number"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = number()?,
            "--seed" => args.seed = number()?,
            "--threads" => args.threads = number()?,
            "--known" => args.known = true,
            "--trace" => args.options.trace = true,
            "--mutations" => args.mutations = true,
            "--mutation" => {
                let name = words.next().unwrap_or_default();
                let known = MUTATIONS.iter().find(|it| it.0 == name);
                let names: Vec<&str> = MUTATIONS.iter().map(|it| it.0).collect();
                let (_, mutation, _) =
                    known.ok_or(format!("mutations are {}", names.join(", ")))?;
                args.options.mutation = Some(*mutation);
            }
            _ => return Err(format!("unknown: {word}")),
        }
    }
    if args.threads == 0 {
        args.threads = std::thread::available_parallelism().map_or(1, |it| it.get() as u64);
    }
    Ok(args)
}

/// What became of a range of seeds.
#[derive(Default)]
struct Swept {
    runs: u64,
    /// What happened in those that passed.
    report: Report,
    /// Failures, by their seeds.
    failures: BTreeMap<u64, Violation>,
}

/// Runs all seeds, or until something fails that is looked for.
fn sweep(args: &Args, options: Options, until: impl Fn(&Violation) -> bool + Sync) -> Swept {
    let known: &[u64] = if args.known { KNOWN } else { &[] };
    let seeds: Vec<u64> = (args.seed..args.seed + args.seeds)
        .chain(known.iter().copied())
        .collect();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Swept::default());
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        break;
                    };
                    let seed = *seed;
                    let result = std::panic::catch_unwind(|| run(seed, options));
                    let panicked = || Violation::new(Rule::NoPanic, "see above");
                    let result = result.unwrap_or_else(|_| Err(panicked()));
                    let Ok(mut total) = total.lock() else { break };
                    total.runs += 1;
                    match result {
                        Ok(report) => add(&mut total.report, &report),
                        Err(violation) => {
                            if until(&violation) {
                                stop.store(true, Ordering::Relaxed);
                            }
                            total.failures.insert(seed, violation);
                        }
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_default()
}

fn add(total: &mut Report, one: &Report) {
    for (fault, count) in &one.faults {
        *total.faults.entry(fault).or_insert(0) += count;
    }
    total.simulated += one.simulated - 1_000_000;
    total.proposed += one.proposed;
    total.acknowledged += one.acknowledged;
    total.lost += one.lost;
    total.takeovers += one.takeovers;
    total.lossy += one.lossy;
    total.forks += one.forks;
    total.twins += one.twins;
    total.joins += one.joins;
    total.doormen += one.doormen;
    total.rotations += one.rotations;
    total.healed = total.healed.max(one.healed);
}

fn tell(report: &Report, runs: u64, seconds: f64) {
    let faults: BTreeMap<_, _> = report.faults.iter().collect();
    println!(
        "{runs} schedules in {seconds:.1} s: {:.1} simulated hours",
        report.simulated as f64 / 3.6e6
    );
    println!("faults: {faults:?}");
    println!(
        "writes: {} proposed, {} acknowledged, of these {} lost to lossy recovery or a fork, {} moves of the door",
        report.proposed, report.acknowledged, report.lost, report.rotations
    );
    println!(
        "joins {}, doormen {}, lossless takeovers {}, lossy recoveries {}, runs with a fork {}, with two founders {}",
        report.joins, report.doormen, report.takeovers, report.lossy, report.forks, report.twins
    );
    println!("slowest healing: {:.1} s", report.healed as f64 / 1e3);
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    if args.mutations {
        return mutations(&args);
    }
    let swept = sweep(&args, args.options, |_| false);
    tell(&swept.report, swept.runs, began.elapsed().as_secs_f64());
    for (seed, violation) in &swept.failures {
        println!("seed {seed}: {violation}");
        println!("again: npm run sim -- --seed {seed} --trace");
    }
    let failed = swept.failures.len() as u64;
    println!("{} passed, {failed} failed", swept.runs - failed);
    exit(failed == 0)
}

fn exit(good: bool) -> ExitCode {
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Breaks each rule in turn: each has to be noticed, by the invariant that it is there for.
fn mutations(args: &Args) -> ExitCode {
    let (mut passed, mut missed) = (0, 0);
    for (name, mutation, rule) in MUTATIONS {
        if args.options.mutation.is_some_and(|it| it != mutation) {
            continue;
        }
        let options = Options {
            mutation: Some(mutation),
            ..args.options
        };
        let swept = sweep(args, options, |it| it.rule == rule);
        let caught = swept.failures.iter().find(|(_, it)| it.rule == rule);
        match caught {
            Some((seed, violation)) => {
                passed += 1;
                let what = violation.to_string();
                let what = what.lines().next().unwrap_or_default();
                println!(
                    "{name}: caught after {} seeds, by {seed}: {what}",
                    swept.runs
                );
            }
            None => {
                missed += 1;
                println!("{name}: NOT caught by {rule:?} in {} seeds", swept.runs);
            }
        }
        let others = swept.failures.iter().filter(|(_, it)| it.rule != rule);
        let others: Vec<String> = others
            .map(|(seed, it)| format!("{:?} by {seed}", it.rule))
            .collect();
        if !others.is_empty() {
            println!("  before that: {}", others.join(", "));
        }
    }
    println!("{passed} passed, {missed} failed");
    exit(missed == 0)
}
