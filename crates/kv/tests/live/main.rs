//! Real endpoints in a real gossip topic.

mod interop;
mod net;
mod ours;
