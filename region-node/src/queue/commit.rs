//! Group commit's end: one committer task per server takes what its shards have gathered, sends it in one write,
//! and completes the groups. It never waits while nothing is in flight and joins are few: a lone join goes at once.
//!
//! The committer owns the batches of its server. A group whose slot has moved is handed to a task of its own, so that
//! the others do not wait for it.

use super::codec::{self, ShardAnswer};
use super::config::QueueConfig;
use super::failure::CallError;
use super::functions::JOIN;
use super::group::{Group, GroupResult};
use super::limits::{BUSY_ITEMS, WAIT_MAX};
use super::router::Router;
use super::server::Server;
use super::types::JoinError;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// What a committer needs besides its server.
pub(super) struct Committing {
    pub(super) config: QueueConfig,
    pub(super) router: Arc<Router>,
    pub(super) in_flight: Arc<AtomicUsize>,
}

impl Committing {
    /// The committer task of `server`.
    pub(super) async fn run(self: Arc<Self>, server: Arc<Server>) {
        loop {
            tokio::select! {
                () = server.stop.cancelled() => {
                    self.take(&server, usize::MAX).iter().for_each(|group| group.fail(away()));
                    return;
                }
                () = server.work.notified() => {}
            }
            let mut busy = false;
            loop {
                if busy && self.waiting(&server) < self.config.batch_items_max {
                    // Joins are many: fewer, larger batches cost less than they wait.
                    tokio::time::sleep(self.config.batch_wait_max).await;
                } else {
                    // Requests that are ready to run get in first; costs nothing when there are none.
                    tokio::task::yield_now().await;
                }
                let groups = self.take(&server, self.config.batch_items_max);
                if groups.is_empty() {
                    break;
                }
                busy = groups.iter().map(|group| group.count as usize).sum::<usize>() >= BUSY_ITEMS;
                self.commit(&server, groups).await;
            }
        }
    }

    fn waiting(&self, server: &Server) -> usize {
        server.dirty.lock().iter().map(|shard| shard.waiting()).sum()
    }

    /// Whole groups until there are `most` items.
    fn take(&self, server: &Server, most: usize) -> Vec<Group> {
        let mut dirty = server.dirty.lock();
        let (mut groups, mut items) = (Vec::with_capacity(dirty.len()), 0);
        while items < most
            && let Some(shard) = dirty.pop_front()
        {
            if let Some((group, more)) = shard.take(&self.in_flight) {
                items += group.count as usize;
                groups.push(group);
                if more {
                    dirty.push_back(shard);
                }
            }
        }
        groups
    }

    async fn commit(self: &Arc<Self>, server: &Arc<Server>, groups: Vec<Group>) {
        let link = match server.link() {
            Ok(link) => link,
            Err(error) => {
                let error = JoinError::from(error);
                self.router.note_stale();
                return groups.iter().for_each(|group| group.fail(error.clone()));
            }
        };
        // One call for the whole batch where one server holds every slot; else a call may name one slot only.
        let per_call = if self.config.cluster { 1 } else { groups.len() };
        let mut pipeline = Pipeline::with_capacity(groups.len() / per_call + 1);
        for call in groups.chunks(per_call) {
            pipeline.add_command(join_command(call));
        }
        self.add_wait(&mut pipeline);
        let values = match server.send(&link, link.intake.clone(), &pipeline).await {
            Ok(values) => values,
            Err(error) => {
                let error = JoinError::from(error);
                self.router.note_stale();
                return groups.iter().for_each(|group| group.fail(error.clone()));
            }
        };
        self.deliver(groups, per_call, values);
    }

    fn add_wait(&self, pipeline: &mut Pipeline) {
        if self.config.wait_replicas > 0 {
            pipeline.cmd("WAIT").arg(self.config.wait_replicas).arg(WAIT_MAX.as_millis() as u64);
        }
    }

    /// `None` when enough replicas confirmed.
    fn too_few_replicas(&self, last: Option<&Value>) -> Option<JoinError> {
        let wanted = self.config.wait_replicas;
        if wanted == 0 {
            return None;
        }
        match last {
            Some(Value::Int(confirmed)) if *confirmed >= i64::from(wanted) => None,
            Some(Value::Int(confirmed)) => {
                Some(JoinError::Unknown(format!("{confirmed} of {wanted} replicas confirmed in time")))
            }
            _ => Some(JoinError::Unknown("no answer about replicas".to_owned())),
        }
    }

    fn deliver(self: &Arc<Self>, groups: Vec<Group>, per_call: usize, values: Vec<Value>) {
        let unreplicated = self.too_few_replicas(values.last());
        let mut groups = groups.into_iter();
        let mut values = values.into_iter();
        while groups.len() > 0 {
            let call: Vec<Group> = groups.by_ref().take(per_call).collect();
            match CallError::of_value(values.next().unwrap_or(Value::Nil)) {
                Ok(value) => complete(&call, value, unreplicated.as_ref()),
                Err(CallError::Moved(_) | CallError::Ask(_) | CallError::Later(_) | CallError::NoFunction) => {
                    let committing = self.clone();
                    tokio::spawn(async move { committing.follow(call).await });
                }
                Err(error) => {
                    let error = JoinError::from(error);
                    call.iter().for_each(|group| group.fail(error.clone()));
                }
            }
        }
    }

    /// Sends the groups of one call again, wherever their slot is by now.
    async fn follow(&self, groups: Vec<Group>) {
        let Some(slot) = groups.first().map(|group| group.shard.keys.slot) else { return };
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(join_command(&groups));
        self.add_wait(&mut pipeline);
        match self.router.call(slot, &pipeline).await {
            Ok(values) => {
                let unreplicated = self.too_few_replicas(values.last());
                complete(&groups, values.into_iter().next().unwrap_or(Value::Nil), unreplicated.as_ref());
            }
            Err(error) => {
                let error = JoinError::from(error);
                groups.iter().for_each(|group| group.fail(error.clone()));
            }
        }
    }
}

fn away() -> JoinError {
    JoinError::Unavailable("this server no longer holds any shard".to_owned())
}

fn join_command(groups: &[Group]) -> Cmd {
    let bytes: usize = groups.iter().map(|group| group.blob.len() + 160).sum();
    let mut command = Cmd::with_capacity(3 + groups.len() * 5, bytes + 64);
    command.arg("FCALL").arg(JOIN).arg(groups.len() * 4);
    for group in groups {
        let keys = &group.shard.keys;
        command.arg(&keys.meta).arg(&keys.queue).arg(&keys.users).arg(&keys.samples);
    }
    for group in groups {
        command.arg(group.blob.as_slice());
    }
    command
}

fn complete(groups: &[Group], value: Value, unreplicated: Option<&JoinError>) {
    let answers = match value {
        Value::Array(answers) if answers.len() == groups.len() => answers,
        _ => {
            let error = JoinError::Unknown("an answer of another shape".to_owned());
            return groups.iter().for_each(|group| group.fail(error.clone()));
        }
    };
    for (group, answer) in groups.iter().zip(answers) {
        let answer = match &answer {
            Value::BulkString(bytes) => codec::shard_answer(bytes),
            _ => Err(super::types::QueueError::Corrupt("an answer of another shape")),
        };
        let shard = group.shard.shard;
        group.complete(match (answer, unreplicated) {
            (Err(error), _) => GroupResult::Failed(JoinError::Unknown(error.to_string())),
            (Ok(ShardAnswer::NoGeneration | ShardAnswer::Behind), _) => {
                GroupResult::Failed(JoinError::NoGeneration { shard })
            }
            (Ok(ShardAnswer::Done { .. }), Some(error)) => GroupResult::Failed(error.clone()),
            (Ok(ShardAnswer::Done { generation, arrival_ms, first_seq, odd }), None) => {
                GroupResult::Stored { generation, arrival_ms, first_seq, odd }
            }
        });
    }
}
