//! Every limit, and what happens at it.

/// Members of a room, learners included. More are refused with `full`.
pub const MEMBERS: usize = 64;
/// Voters by default. Further members listen.
pub const VOTERS: usize = 5;
/// Bytes of a participant id. Longer ones are refused with `bad-id`.
pub const PARTICIPANT_BYTES: usize = 64;
/// Bytes of a state. A change that would make it larger is refused.
pub const STATE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a change. A larger one is refused.
pub const CHANGE_BYTES: usize = 64 * 1024;
/// Bytes of a snapshot, and of a base that survivors begin an epoch from. A larger one is dropped.
pub const SNAPSHOT_BYTES: usize = 8 * 1024 * 1024 + 64 * 1024;
/// Bytes of one chunk of it.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Snapshots on their way to members at once; who comes later is sent one when there is room.
pub const TRANSFERS: usize = 2;
/// Bytes of a frame. A larger one is dropped.
pub const FRAME_BYTES: usize = 1024 * 1024;
/// Bytes of the entries in one message. A larger message is dropped.
pub const ENTRIES_BYTES: usize = 512 * 1024;
/// Own changes that wait for their outcome. More are refused with `busy`.
pub const PENDING: usize = 64;
/// Proposals that wait for the members' consent. At the limit no more are taken; their authors ask
/// again.
pub const CONSIDERED: usize = 256;
/// Newcomers that wait for their turn at the door. More are refused with `rate-limited`.
pub const NEWCOMERS: usize = 64;
/// Sessions of former members that are remembered; the oldest are forgotten.
pub const ENDED_SESSIONS: usize = 1_024;
/// Keys that are kept out. At the limit a kick removes without keeping out.
pub const BANNED: usize = 1_024;
/// Ids that the room's door had, remembered for newcomers who were on their way; the oldest are
/// forgotten.
pub const DOORS: usize = 16;
/// Moderators. A longer list is refused.
pub const MODERATORS: usize = 64;
/// Applied changes that are kept to be handed back if another lineage wins; the oldest are forgotten.
pub const RECENT: usize = 4_096;
/// Bytes of them.
pub const RECENT_BYTES: usize = 8 * 1024 * 1024;
/// Records of a lineage that are kept and told. Older ones are forgotten.
pub const LINEAGE: usize = 16;
/// Terms from here on are refused: counting must not overflow.
pub const TERM: u64 = 1 << 48;
/// How far one message may raise a member's term. Terms rise with elections, of which a day has some ten
/// thousand at the most; with messages that could raise it to [`TERM`] one member would end a room's
/// elections for good. Beyond it is refused; who has missed more comes back by the door.
pub const TERM_STEP: u64 = 1 << 16;
/// Indices from here on are refused likewise.
pub const INDEX: u64 = 1 << 52;
