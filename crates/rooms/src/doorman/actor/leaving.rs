//! Goodbyes.

use super::*;

impl Actor {
    pub(super) fn leave(&mut self, reply: Option<Reply<()>>) {
        let until = Instant::now() + LEAVE_TIMEOUT;
        let (_, replies) = self.leaving.get_or_insert((until, Vec::new()));
        replies.extend(reply);
        self.entering = None;
        self.fail_unready();
        if lock(&self.shared).node.is_none() {
            self.over = true;
            return;
        }
        self.step(Input::Leave);
    }

    pub(super) fn fail_unready(&mut self) {
        self.ready.send_if_modified(|ready| {
            let first = ready.is_none();
            if first {
                *ready = Some(Err(Error::Closed("room")));
            }
            first
        });
    }

    /// Says goodbye without waiting: the page vanishes, and may be back.
    pub(super) fn leave_now(&mut self) {
        self.away = true;
        self.entering = None;
        self.step(Input::Leave);
        self.say_the_end();
    }

    pub(super) fn resume(&mut self) {
        if !std::mem::take(&mut self.away) || self.leaving.is_some() {
            return;
        }
        self.dismantle();
        self.find_the_way(Duration::ZERO);
    }

    /// Tells everyone that this incarnation is over, whatever became of its removal.
    pub(super) fn say_the_end(&mut self) {
        let status = lock(&self.shared).node.as_ref().map(Node::status);
        if let (Some(status), Some(mesh)) = (status, &self.mesh) {
            let ended = self.end_of(status.epoch, status.id);
            mesh.tell_all(&Control::Ended(ended));
        }
    }

    pub(super) async fn finish(mut self) {
        self.hub.change(self.number, |it| it.open = false);
        self.door = None;
        self.turn_away();
        self.say_the_end();
        for (_, proposal) in self.proposals.drain() {
            proposal.tell(Err(Error::UpdateUnknown));
        }
        let room = {
            let mut shared = lock(&self.shared);
            shared.close();
            shared.room.clone()
        };
        let farewell = async {
            time::sleep(LINGER).await;
            if let Some(mesh) = &mut self.mesh {
                mesh.close();
            }
        };
        let leave = async {
            if let Some(room) = room {
                room.leave().await;
            }
        };
        tokio::join!(farewell, leave);
        self.hub.remove(self.number);
        for reply in self.leaving.into_iter().flat_map(|(_, replies)| replies) {
            // The leaver may have stopped waiting.
            let _ = reply.send(Ok(()));
        }
    }
}
