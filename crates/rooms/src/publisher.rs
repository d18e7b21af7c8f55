//! What a participant usually publishes: `camera`, with sound, from the start on, and `screen` while
//! it is shared.

use iroh_rooms_moq::Broadcast;
use n0_future::task;
use tokio::sync::watch;

use crate::{Error, RoomHandle, event::Status};

/// The name of the broadcast of camera and microphone.
pub const CAMERA: &str = "camera";
/// The name of the broadcast of the screen.
pub const SCREEN: &str = "screen";

/// What is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishOpts {
    /// Pictures of the camera. Default: yes.
    pub camera: bool,
    /// Sound of the microphone; it goes with the camera's broadcast. Default: yes.
    pub microphone: bool,
    /// The screen. Default: no.
    pub screen: bool,
}

impl Default for PublishOpts {
    fn default() -> Self {
        Self {
            camera: true,
            microphone: true,
            screen: false,
        }
    }
}

const NOTHING: PublishOpts = PublishOpts {
    camera: false,
    microphone: false,
    screen: false,
};

/// Makes a broadcast anew each time it is asked.
type Make = Box<dyn FnMut() -> Result<Broadcast, Error> + Send>;

/// Where the broadcasts come from: what is in them is the application's.
pub struct PublishSources {
    camera: Make,
    screen: Make,
}

impl PublishSources {
    /// Each function makes its broadcast when it is to be published, a new one each time.
    pub fn new(
        camera: impl FnMut() -> Result<Broadcast, Error> + Send + 'static,
        screen: impl FnMut() -> Result<Broadcast, Error> + Send + 'static,
    ) -> Self {
        Self {
            camera: Box::new(camera),
            screen: Box::new(screen),
        }
    }
}

impl std::fmt::Debug for PublishSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishSources").finish_non_exhaustive()
    }
}

/// Publishes, withdraws and ends the broadcasts of a participant as it is told. Saying does not wait:
/// a task does what was said last. When this is dropped or closed, all is withdrawn.
#[derive(Debug)]
pub struct RoomPublisherSync {
    room: RoomHandle,
    wanted: watch::Sender<Wanted>,
    done: watch::Receiver<Done>,
}

/// What was said last, with a number; `None` for the end.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    number: u64,
    state: Option<PublishOpts>,
}

/// The number of what was done last, and how it went.
type Done = (u64, Result<(), Error>);

impl RoomPublisherSync {
    /// Begins to publish, with [`PublishOpts::default`]: the camera is published at once.
    pub fn new(room: RoomHandle, sources: PublishSources) -> Self {
        let (wanted, told) = watch::channel(Wanted {
            number: 1,
            state: Some(PublishOpts::default()),
        });
        let (doing, done) = watch::channel((0, Ok(())));
        let worker = Worker {
            room: room.clone(),
            sources,
            camera: None,
            screen: None,
        };
        task::spawn(worker.run(wanted.clone(), told, doing));
        Self { room, wanted, done }
    }

    /// Says what is to be published. Idempotent, and the last one wins however fast they come. A
    /// source that fails takes its switch back; [`RoomPublisherSync::settled`] says why. Fails with
    /// `CLOSED` when this or the room is closed.
    pub fn set_state(&self, state: &PublishOpts) -> Result<(), Error> {
        if self.room.status() == Status::Disconnected {
            return Err(Error::Closed("room"));
        }
        let mut open = true;
        self.wanted.send_if_modified(|wanted| {
            open = wanted.state.is_some();
            let changed = open && wanted.state != Some(*state);
            if changed {
                wanted.number += 1;
                wanted.state = Some(*state);
            }
            changed
        });
        open.then_some(()).ok_or(Error::Closed("publisher"))
    }

    /// What is to be published by now; nothing when this is closed.
    pub fn state(&self) -> PublishOpts {
        self.wanted.borrow().state.unwrap_or(NOTHING)
    }

    /// Waits until what was said by now is so, or something that was said later. Fails with what a
    /// source or the room said.
    pub async fn settled(&self) -> Result<(), Error> {
        let asked = self.wanted.borrow().number;
        let mut done = self.done.clone();
        let done = done.wait_for(|(number, _)| *number >= asked).await;
        done.map_err(|_| Error::Closed("publisher"))?.1.clone()
    }

    /// Withdraws and ends everything, and waits until that is so. Idempotent.
    pub async fn close(&self) {
        self.end();
        // A room that is left has withdrawn it.
        let _ = self.settled().await;
    }

    fn end(&self) {
        self.wanted.send_if_modified(|wanted| {
            let ends = wanted.state.take().is_some();
            wanted.number += u64::from(ends);
            ends
        });
    }
}

impl Drop for RoomPublisherSync {
    fn drop(&mut self) {
        self.end();
    }
}

/// The task of a [`RoomPublisherSync`].
struct Worker {
    room: RoomHandle,
    sources: PublishSources,
    camera: Option<Broadcast>,
    screen: Option<Broadcast>,
}

impl Worker {
    async fn run(
        mut self,
        wanted: watch::Sender<Wanted>,
        mut told: watch::Receiver<Wanted>,
        doing: watch::Sender<Done>,
    ) {
        loop {
            let Wanted { number, state } = *told.borrow_and_update();
            let PublishOpts {
                camera,
                microphone,
                screen,
            } = state.unwrap_or(NOTHING);
            let sources = &mut self.sources;
            let pictures = camera || microphone;
            let shown = set(
                &self.room,
                CAMERA,
                pictures,
                &mut sources.camera,
                &mut self.camera,
            );
            let mut result = shown.await;
            if result.is_err() {
                take_back(&wanted, number, |state| {
                    (state.camera, state.microphone) = (false, false);
                });
            }
            let shared = set(
                &self.room,
                SCREEN,
                screen,
                &mut sources.screen,
                &mut self.screen,
            );
            if let Err(error) = shared.await {
                take_back(&wanted, number, |state| state.screen = false);
                result = Err(error);
            }
            doing.send_modify(|done| *done = (number, result));
            // The sender is here as well: it cannot be gone.
            if state.is_none() || told.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Publishes or withdraws one broadcast, unless it is as wanted.
async fn set(
    room: &RoomHandle,
    name: &str,
    wanted: bool,
    make: &mut Make,
    published: &mut Option<Broadcast>,
) -> Result<(), Error> {
    let stands = published.as_ref().is_some_and(|it| !it.is_closed());
    if wanted && !stands {
        let broadcast = make()?;
        if let Err(error) = room.publish(name, &broadcast).await {
            broadcast.finish();
            return Err(error);
        }
        *published = Some(broadcast);
    } else if !wanted && let Some(broadcast) = published.take() {
        // A room that is left has withdrawn it.
        let _ = room.unpublish(name).await;
        broadcast.finish();
    }
    Ok(())
}

/// Changes what is wanted, without telling the task: it knows. What was said later stays.
fn take_back(wanted: &watch::Sender<Wanted>, number: u64, change: impl FnOnce(&mut PublishOpts)) {
    wanted.send_if_modified(|wanted| {
        if wanted.number == number
            && let Some(state) = &mut wanted.state
        {
            change(state);
        }
        false
    });
}
