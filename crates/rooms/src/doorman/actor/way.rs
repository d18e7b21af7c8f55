//! The way in: to a room that is there, or to a new one.

use super::*;

impl Actor {
    /// Looks for the way in, after a pause.
    pub(super) fn find_the_way(&mut self, pause: Duration) {
        let (live, how, address) = (self.live.clone(), self.how, self.address.clone());
        let patience = self.options.join_timeout;
        // A room that nobody else can know is new.
        let unheard_of = how == How::Create && self.address.is_fresh;
        let request = Request {
            door: address.id,
            relays: newcomer::relays_of(&live, &address.id, &address.relays),
            participant_id: self.options.participant_id.clone(),
            proof: self.options.proof.clone(),
            app: self.options.app,
            priority: self.options.priority,
            ended: self.ended.clone(),
        };
        let (hub, number) = (self.hub.clone(), self.number);
        let ways = self.ways_tx.clone();
        self.entering = Some(AbortOnDropHandle::new(task::spawn(async move {
            time::sleep(pause).await;
            let asked = || hub.change(number, |it| it.asked = true);
            let way = match how {
                How::Create if unheard_of => Ok(Way::New),
                How::Create => match newcomer::probe(&live, &request.door, &request.relays).await {
                    Some(_) => Err(Error::RoomExists),
                    None => Ok(Way::New),
                },
                How::Join => newcomer::enter(&live, &request, patience, asked)
                    .await
                    .map(|it| Way::In(it.into())),
                How::JoinOrCreate => {
                    let before = patience.min(JOIN_BEFORE_CREATE);
                    match newcomer::enter(&live, &request, before, &asked).await {
                        Err(Error::RoomNotFound) => Ok(Way::New),
                        // Someone is there.
                        Err(Error::Timeout(_)) => newcomer::enter(&live, &request, patience, asked)
                            .await
                            .map(|it| Way::In(it.into())),
                        way => way.map(|it| Way::In(it.into())),
                    }
                }
            };
            // A room that is over has no use for it.
            let _ = ways.send(way).await;
        })));
    }

    pub(super) fn way(&mut self, way: Result<Way, Error>) {
        self.entering = None;
        if self.leaving.is_some() || self.away {
            return;
        }
        let was_ready = self.ready.borrow().is_some();
        let entered = match way {
            Ok(Way::In(admitted)) => self.enter(*admitted),
            Ok(Way::New) => self.found(),
            Err(error) => Err(error),
        };
        let Err(error) = entered else {
            return;
        };
        let early = self.began.elapsed() < self.options.join_timeout;
        match error {
            // What was no welcome was not the room's.
            Error::Timeout(_) if early => {
                self.find_the_way(COME_BACK.mul_f64(rand::random_range(0.5..1.5)))
            }
            error if !was_ready => self.fail(error),
            Error::RoomNotFound | Error::Timeout(_) => {
                self.find_the_way(COME_BACK.mul_f64(rand::random_range(0.5..1.5)));
            }
            error => {
                let kicked = matches!(&error, Error::Refused(why) if why == guests::KICKED);
                self.end(if kicked {
                    Ending::Kicked
                } else {
                    Ending::Refused
                });
            }
        }
    }

    fn config(&self, room: Hash) -> Config {
        let keys = Arc::new(Ed25519::new(self.live.secret_key().clone()));
        let mut config = Config::new(keys, room, rand::random());
        config.voters = self.options.voters;
        config.recovery = match self.options.recovery {
            Recovery::Auto => consensus::Recovery::Auto,
            Recovery::Manual | Recovery::Never => consensus::Recovery::Manual,
        };
        config.approval = match self.options.approval {
            Approval::Guard => consensus::Approval::Guard,
            Approval::Majority => consensus::Approval::Majority,
        };
        config.host = self.options.reducer || self.options.validate;
        config
    }

    /// Becomes the first member of a new room.
    fn found(&mut self) -> Result<(), Error> {
        let wrong = |what: String| Error::InvalidArgument(what);
        let room = *self.address.id.as_bytes();
        let (name, priority) = (self.options.participant_id.clone(), self.options.priority);
        let (config, now, nonce) = (self.config(room), self.clock.now(), rand::random());
        let saved = self.options.restore.as_deref().map(load).transpose()?;
        let node = match saved {
            Some(saved) if saved.room == room => {
                Node::restore(config, saved, &name, priority, nonce, now)
            }
            saved => {
                let state = match saved {
                    Some(saved) => saved.state,
                    None => {
                        let text = self.options.initial_state.as_deref().unwrap_or("{}");
                        let json = State::json(text.as_bytes())
                            .map_err(|why| wrong(format!("the first state: {why}")))?;
                        match self.options.reducer {
                            true => State::Opaque(json.bytes()),
                            false => json,
                        }
                    }
                };
                Node::create(config, state, &name, priority, nonce, now)
            }
        };
        let node = node.ok_or_else(|| wrong("the first state is too large".into()))?;
        let secret = *self.topic_secret.get_or_insert_with(rand::random);
        self.founding = Some(Instant::now());
        self.install(node, secret);
        if !self.options.moderators.is_empty() {
            let more = self.options.moderators.iter().map(|it| *it.as_bytes());
            let keys = [self.me].into_iter().chain(more).collect();
            self.propose(Payload::Moderators(keys), None, None);
            self.work();
        }
        Ok(())
    }

    /// Becomes a member of a room that is there.
    fn enter(&mut self, admitted: Admitted) -> Result<(), Error> {
        let config = self.config(*self.address.id.as_bytes());
        let now = self.clock.now();
        let node = Node::join(config, admitted.welcome, now);
        // A welcome that voters do not speak for is worth as much as none.
        let node = node.ok_or(Error::Timeout("joining the room"))?;
        self.founding = None;
        let secret = *self.topic_secret.get_or_insert(admitted.topic_secret);
        self.install(node, secret);
        Ok(())
    }

    fn install(&mut self, node: Node, secret: [u8; 32]) {
        let room = node.room();
        self.refusals = 0;
        self.ended = None;
        self.mesh = Some(Mesh::new(
            &self.live,
            room,
            &secret,
            self.reports_tx.clone(),
        ));
        self.hub.change(self.number, |it| {
            it.room = room;
            it.open = true;
        });
        lock(&self.shared).node = Some(node);
        let online = self.live.status() == Status::Connected;
        self.step(Input::Online(online));
        self.watch_members();
    }
}

/// Reads what [`super::StateRoom::saved`] gave.
fn load(bytes: &[u8]) -> Result<Saved, Error> {
    let wrong = |why: &str| Error::InvalidArgument(format!("restore: {why}"));
    let (room, rest) = bytes
        .split_first_chunk::<32>()
        .ok_or_else(|| wrong("too short"))?;
    Saved::load(rest, room).map_err(|error| wrong(&error.to_string()))
}
