//! Round and round: look, ask what is next, write it down, do it, write down how it ended.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ichor_rollout::action::{Action, Call, Outcome};
use ichor_rollout::journal::Journal;
use ichor_rollout::ladder;
use ichor_rollout::next::{self, Next, Stop, Why};
use ichor_rollout::plan::Plan;
use ichor_rollout::view::{Lock as LockView, View};

use tokio::sync::mpsc::UnboundedReceiver;

use super::perform::{Hands, News, perform};
use super::record::Record;
use super::show::Show;
use super::{now, observe};
use crate::exit::Exit;
use crate::interrupt::{EndRequests, Hold};
use crate::kubernetes::lease::{Lock, LockLost};

/// How often is looked while something is waited for; oftener where a soak is shorter.
const POLL: Duration = Duration::from_secs(2);
/// How often at most.
const SHORTEST_POLL: Duration = Duration::from_millis(200);

/// A rollout that is ready to go.
pub(crate) struct Rollout {
    pub(crate) plan: Plan,
    pub(crate) hands: Hands,
    pub(crate) record: Record,
    pub(crate) journal: Journal,
    /// The lock, unless the operator does without.
    pub(crate) lock: Option<Lock>,
    pub(crate) show: Show,
    /// What there is to tell about calls that are under way.
    pub(crate) news: UnboundedReceiver<News>,
}

type Flight = Pin<Box<dyn Future<Output = (Action, Outcome, Option<String>)>>>;

/// How a rollout ended.
#[derive(Debug)]
pub(crate) enum End {
    Done,
    Stopped(Stop),
    Interrupted,
}

impl Rollout {
    /// Carries it out.
    pub(crate) async fn run(mut self) -> anyhow::Result<Exit> {
        let result = self.go().await;
        // Whatever happened: the next run need not wait for the lock.
        if let Some(lock) = self.lock.take()
            && let Err(error) = lock.release().await
        {
            self.show.say(&format!("note: the lock was not given back and runs out by itself: {error}"));
        }
        let end = result?;
        self.show.end(&self.plan, &self.journal, &end);
        Ok(match end {
            End::Done => Exit::Done,
            End::Stopped(Stop::Gate { .. } | Stop::Changed { .. }) if !self.journal.has_begun() => {
                Exit::Refused
            }
            End::Stopped(_) => Exit::Stopped,
            End::Interrupted => Exit::Interrupted,
        })
    }

    async fn go(&mut self) -> anyhow::Result<End> {
        // It ends between two calls, not within one.
        let _hold = Hold::begin();
        let mut end_requests = EndRequests::listen();
        let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
        let entry = self.journal.begin_run(self.plan.goal, now());
        self.record.write(&entry)?;
        let poll = self.plan.policy.soak.clamp(SHORTEST_POLL, POLL);
        let mut is_interrupted = false;
        loop {
            let view = self.look(&mut flights).await?;
            self.journal.look(&view);
            let next = next::next(&self.plan, &self.journal, &view, now());
            self.show.view(&self.plan, &self.journal, &view, &next);
            if is_interrupted && flights.is_empty() {
                let entry = self.journal.stop("interrupted".into(), now());
                self.record.write(&entry)?;
                return Ok(End::Interrupted);
            }
            match next {
                Next::Act(action) if !is_interrupted => {
                    self.act(action, &view, &mut flights)?;
                    continue;
                }
                Next::Done => {
                    let entry = self.journal.finish(now());
                    self.record.write(&entry)?;
                    return Ok(End::Done);
                }
                Next::Stop(stop) => {
                    let text = format!("{stop:?}").into();
                    let entry = self.journal.stop(text, now());
                    self.record.write(&entry)?;
                    self.explain(&view, &stop);
                    return Ok(End::Stopped(stop));
                }
                Next::Wait(pending) if pending.iter().all(|it| it.why == Why::Look) => continue,
                Next::Act(_) | Next::Wait(_) => {}
            }
            tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => self.land(landed)?,
                Some(news) = self.news.recv() => self.show.told(&self.plan, news.node, &news.text),
                () = tokio::time::sleep(poll) => {}
                () = end_requests.next() => {
                    if is_interrupted {
                        return Ok(End::Interrupted);
                    }
                    is_interrupted = true;
                    self.show.say(match flights.is_empty() {
                        true => "interrupted",
                        false => "interrupted: waiting for the call under way to end; once more leaves at once",
                    });
                }
            }
        }
    }

    /// Looks, while calls go on.
    async fn look(&mut self, flights: &mut FuturesUnordered<Flight>) -> anyhow::Result<View> {
        let (targets, kubernetes) = (self.hands.targets.clone(), self.hands.kubernetes.clone());
        let lock = self.lock_view();
        let looking = observe::look(&targets, kubernetes.as_ref(), lock);
        tokio::pin!(looking);
        loop {
            tokio::select! {
                view = &mut looking => return Ok(view),
                Some(landed) = flights.next(), if !flights.is_empty() => self.land(landed)?,
            }
        }
    }

    fn act(
        &mut self,
        action: Action,
        view: &View,
        flights: &mut FuturesUnordered<Flight>,
    ) -> anyhow::Result<()> {
        let entry = self.journal.begin(&self.plan, &action, view, now());
        self.record.write(&entry)?;
        // Writing may have taken long: a laptop that slept has no lock any more.
        if !next::is_in_time(&self.plan.policy, view, self.lock_view(), now()) {
            return self.land((action, Outcome::Refused("it was too late for it".into()), None));
        }
        self.show.begin(&self.plan, &action);
        if action.call == Call::Conclude {
            return self.land((action, Outcome::Done, None));
        }
        let (hands, task) = (self.hands.clone(), self.plan.task(&action).cloned());
        flights.push(Box::pin(async move {
            let (outcome, told) = perform(hands, action.clone(), task).await;
            (action, outcome, told)
        }));
        Ok(())
    }

    fn land(&mut self, (action, outcome, told): (Action, Outcome, Option<String>)) -> anyhow::Result<()> {
        let node = self.plan.nodes[action.node].name.clone();
        let entry = self.journal.end(&node, &action.call, &outcome, now());
        self.record.write(&entry)?;
        self.show.landed(&self.plan, &action, &outcome, told.as_deref());
        Ok(())
    }

    fn lock_view(&self) -> LockView {
        let Some(lock) = &self.lock else { return LockView::Waived };
        match lock.check() {
            // It is asked again with each view, and right before each call.
            Ok(()) => LockView::Held { until: now() + 2 * self.plan.policy.lock_margin },
            Err(LockLost::Doubtful(_)) => LockView::Held { until: now() },
            Err(_) => LockView::Lost,
        }
    }

    /// Says what is known about a node that could not be proven, and what can be done, mildest first.
    fn explain(&mut self, view: &View, stop: &Stop) {
        let Stop::Unproven { node, doubts } = stop else { return };
        let nodes = self.plan.nodes.iter().zip(&view.nodes).enumerate();
        let voters = nodes
            .filter(|(_, (node, _))| node.votes)
            .map(|(index, (_, seen))| (index, seen.etcd.as_ref().filter(|_| seen.answers)))
            .collect();
        let etcd =
            ichor_rollout::guard::EtcdView { voters, floor: Some(0), max_lag: self.plan.policy.max_lag };
        let configures = self.plan.tasks_of(*node).any(|task| task.work.configures());
        let rungs = ladder::ladder(&etcd, *node, configures, doubts);
        self.show.ladder(&self.plan.nodes[*node].name, &rungs);
    }
}
