//! The sum of what the tasks of all kinds have told: what differs becomes events, once.

use super::follow::{Name, News, Object, What};
use crate::clock;
use crate::resource::{Key, Resource};
use crate::store::directory::FAULTS_MAX;
use crate::store::watch::Batch;
use crate::store::{Event, Fault, Lost, Report};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Which kind, and which object.
type Spot = (usize, Name);

/// Everything known.
#[derive(Debug)]
pub(super) struct View {
    entries: HashMap<Spot, (Key, Resource)>,
    faults: BTreeMap<Spot, Fault>,
    counts: BTreeMap<String, usize>,
    /// Kinds that have not been listed yet.
    unlisted: HashSet<usize>,
    /// Kinds whose tasks have no answer, since when, and why.
    lost: BTreeMap<usize, Lost>,
    events: Vec<Event>,
    /// Something has changed since it was told.
    untold: bool,
}

impl View {
    /// Nothing is known of so many kinds.
    pub(super) fn new(kinds: usize) -> View {
        View {
            unlisted: (0..kinds.max(1)).collect(),
            entries: HashMap::new(),
            faults: BTreeMap::new(),
            counts: BTreeMap::new(),
            lost: BTreeMap::new(),
            events: Vec::new(),
            untold: false,
        }
    }

    pub(super) fn take(&mut self, News { source, what }: News) {
        match what {
            What::All(objects) => self.replace(source, objects),
            What::Put(object) => self.put(source, *object),
            What::Gone(name) => self.remove(&(source, name)),
            What::Found => self.find(source),
            What::Lost(why) => self.lose(source, why),
        }
    }

    /// A kind is all of this.
    fn replace(&mut self, source: usize, objects: Vec<Object>) {
        let known = self.entries.keys().chain(self.faults.keys());
        let mut gone: HashSet<Spot> = known.filter(|spot| spot.0 == source).cloned().collect();
        for object in &objects {
            gone.remove(&(source, object.name.clone()));
        }
        let mut gone: Vec<Spot> = gone.into_iter().collect();
        gone.sort_unstable();
        gone.iter().for_each(|spot| self.remove(spot));
        objects.into_iter().for_each(|object| self.put(source, object));
        self.untold |= self.unlisted.remove(&source) && self.unlisted.is_empty();
        self.find(source);
    }

    fn put(&mut self, source: usize, object: Object) {
        let spot = (source, object.name);
        match object.resource {
            Ok(Some((key, resource))) => {
                self.untold |= self.faults.remove(&spot).is_some();
                let entry = (key.clone(), resource.clone());
                match self.entries.insert(spot.clone(), entry) {
                    Some((before, same)) if before == key && same == resource => return,
                    Some((before, _)) if before != key => self.events.push(Event::Remove(before)),
                    Some(_) => {}
                    None => *self.counts.entry(key.kind.clone()).or_default() += 1,
                }
                self.events.push(Event::Put(key, resource));
            }
            Ok(None) => self.remove(&spot),
            Err(fault) => {
                if self.faults.get(&spot) != Some(&fault) {
                    tracing::warn!(object = %fault.file, "{} ({})", fault.what, fault.mend);
                    self.faults.insert(spot, fault);
                    self.untold = true;
                }
            }
        }
    }

    fn remove(&mut self, spot: &Spot) {
        self.untold |= self.faults.remove(spot).is_some();
        let Some((key, _)) = self.entries.remove(spot) else { return };
        if let Some(count) = self.counts.get_mut(&key.kind) {
            *count -= 1;
        }
        self.counts.retain(|_, count| *count > 0);
        self.events.push(Event::Remove(key));
    }

    /// A kind's task has no answer.
    pub(super) fn lose(&mut self, source: usize, why: String) {
        if self.lost.is_empty() {
            tracing::warn!("{why}; the last state stays in force");
        }
        let since = self.lost.get(&source).map_or_else(clock::now, |lost| lost.since);
        self.lost.insert(source, Lost { since, why });
        self.untold = true;
    }

    fn find(&mut self, source: usize) {
        if self.lost.remove(&source).is_some() {
            self.untold = true;
            if self.lost.is_empty() {
                tracing::info!("the datastore answers again");
            }
        }
    }

    /// What has changed; none while nothing has. Until everything has been listed, events wait.
    pub(super) fn batch(&mut self) -> Option<Batch> {
        let known = self.unlisted.is_empty();
        let events = if known { std::mem::take(&mut self.events) } else { Vec::new() };
        if events.is_empty() && !self.untold {
            return None;
        }
        self.untold = false;
        let unread = self.faults.keys().filter(|spot| !self.entries.contains_key(*spot)).count();
        let report = Report {
            files: self.entries.len() + unread,
            resources: self.counts.clone(),
            faults: self.faults.values().take(FAULTS_MAX).cloned().collect(),
            lost: self.lost.values().min_by_key(|lost| lost.since).cloned(),
        };
        Some(Batch { events, report, known })
    }
}
