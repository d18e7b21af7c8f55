//! What the application is asked, and what its silence means.

use std::{sync::Arc, time::Duration};

use iroh::EndpointId;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, mpsc};

use crate::event::ChangeKind;

/// Questions that wait to be read; a further one counts as not answered.
const QUESTIONS_CAP: usize = 256;
/// An application that takes longer to decide about a change has failed: this participant votes no
/// more. It must not guess.
pub(super) const DECIDE: Duration = Duration::from_secs(5);
/// An application that takes longer to agree to a change does not agree.
pub(super) const CONSIDER: Duration = Duration::from_secs(15);
/// A newcomer that is not let in within this is refused.
pub(super) const ADMIT: Duration = Duration::from_secs(30);

/// A question.
#[derive(Debug, Clone, Serialize)]
pub struct Question {
    /// What to name it by in [`super::StateRoom::answer`].
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub kind: QuestionKind,
}

/// What is asked.
#[derive(Debug, Clone, Serialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum QuestionKind {
    /// Whether to let someone in. Answered `true`, `false` or with a reason why not; refused after
    /// 30 s.
    Admit {
        /// The name that it would have.
        participant_id: String,
        /// Its endpoint, proven.
        endpoint_id: EndpointId,
        /// What it shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        proof: Option<Vec<u8>>,
    },
    /// What to make of a change. Nothing else is applied meanwhile. The answer must follow from the
    /// question alone, and is the same at every participant: `{"accept": true}`, with a reducer and
    /// `"state"`, or `{"refuse": "reason"}`, or `{"failed": true}`. After 5 s this participant votes no
    /// more.
    Decide {
        /// The change.
        change: Box<RawValue>,
        /// How it is written.
        change_kind: ChangeKind,
        /// Whose it is.
        author: EndpointId,
        /// Where it is.
        index: u64,
        /// The doorman's clock, in milliseconds since 1970.
        time: u64,
        /// Random, as 16 hex digits, and the same everywhere.
        seed: String,
        /// The state that it would change.
        state: Box<RawValue>,
    },
    /// Whether this participant agrees to a change. Answered `true` or `false`; not after 15 s.
    Consider {
        /// The change.
        change: Box<RawValue>,
        /// How it is written.
        change_kind: ChangeKind,
        /// Whose it is.
        author: EndpointId,
    },
}

/// The queue of questions. Clones read from the same one.
#[derive(Debug, Clone)]
pub struct Questions(Arc<Mutex<mpsc::Receiver<Question>>>);

impl Questions {
    /// The next question; `None` when the room is over.
    pub async fn recv(&self) -> Option<Question> {
        self.0.lock().await.recv().await
    }
}

pub(super) fn channel() -> (mpsc::Sender<Question>, Questions) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_CAP);
    (sender, Questions(Arc::new(Mutex::new(receiver))))
}
