//! Rooms over a real relay on this machine.

mod hostile;
mod net;
mod room;
mod soak;
mod state;
mod state_faults;
mod state_hostile;
