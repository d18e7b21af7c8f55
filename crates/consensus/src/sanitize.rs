//! Refuses what would make Raft panic or believe what cannot be. Raft trusts its peers; we do not.

use crate::limits;
use crate::raft::{Kind, Message, Raft};

/// Whether a message may be stepped, and otherwise why not. The envelope is signed by `from`, a
/// member, for me, in my epoch.
pub fn check(raft: &Raft, from: u64, message: &Message) -> Result<(), &'static str> {
    let me = raft.id();
    let last = raft.last();
    if from == me || from == 0 {
        return Err("from nobody");
    }
    // Term 0 is how Raft marks its own events.
    if message.term == 0 || message.term >= limits::TERM {
        return Err("impossible term");
    }
    // Who has no log yet does not know what the room has come to.
    if last.index > 0 && message.term > raft.term() + limits::TERM_STEP {
        return Err("a term too far ahead");
    }
    // A term has one leader.
    let known = message.term == raft.term() && raft.leader() != 0;
    let leads = matches!(
        message.kind,
        Kind::Append { .. } | Kind::Heartbeat { .. } | Kind::Snapshot(_) | Kind::TimeoutNow { .. }
    );
    if leads && known && from != raft.leader() {
        return Err("not the leader");
    }
    match &message.kind {
        Kind::Vote { last, .. } => {
            if last.index >= limits::INDEX || last.term >= limits::TERM {
                return Err("impossible log");
            }
        }
        Kind::VoteReply { .. } => {
            if !raft.conf().is_voter(from) {
                return Err("not a voter");
            }
        }
        Kind::Append {
            previous,
            commit,
            entries,
            ..
        } => {
            // Every log begins with a snapshot, so nothing follows on nothing.
            if previous.index == 0 || previous.term == 0 {
                return Err("an append to nothing");
            }
            if previous.index >= limits::INDEX || *commit >= limits::INDEX {
                return Err("impossible index");
            }
            let mut term = previous.term;
            let mut size = 0;
            for entry in entries {
                if entry.term < term || entry.term > message.term {
                    return Err("terms out of order");
                }
                term = entry.term;
                size += entry.data.len();
            }
            if previous.term > message.term {
                return Err("terms out of order");
            }
            if size > limits::ENTRIES_BYTES {
                return Err("too many entries");
            }
        }
        Kind::AppendReply {
            index,
            reject,
            commit,
        } => {
            let hint = reject.map_or(0, |it| it.index);
            if *index > last.index || hint > last.index || *commit > last.index {
                return Err("beyond the log");
            }
        }
        Kind::Heartbeat { commit, .. } => {
            if *commit > last.index {
                return Err("beyond the log");
            }
        }
        Kind::HeartbeatReply { commit } => {
            if *commit > last.index {
                return Err("beyond the log");
            }
        }
        Kind::Snapshot(snapshot) => {
            let position = snapshot.position;
            if position.index == 0 || position.index >= limits::INDEX {
                return Err("impossible index");
            }
            if position.term == 0 || position.term > message.term {
                return Err("terms out of order");
            }
            if !snapshot.conf.is_valid() || !snapshot.conf.contains(from) {
                return Err("impossible configuration");
            }
            if !snapshot.conf.contains(me) {
                return Err("not for me");
            }
        }
        Kind::TimeoutNow { .. } => {
            if from != raft.leader() || message.term != raft.term() {
                return Err("not the leader");
            }
        }
    }
    Ok(())
}
