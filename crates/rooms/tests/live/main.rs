//! Rooms over a real relay on this machine.

mod chat;
mod defects;
mod hostile;
mod net;
mod publisher;
mod room;
mod soak;
mod state;
mod state_faults;
mod state_flood;
mod state_hostile;
