//! Writes the flights as a living system does, and counts what MongoDB acknowledged.
//!
//! ```text
//!   writer:  take a group of flights ─▶ insert ──▶ … some groups later … ──▶ depart or cancel ──▶ … ──▶ arrive
//!                                       insert       update · delete · transaction                update · replace
//! ```
//!
//! A flight belongs to one writer all its life, so its changes happen in order. In the steady part a group is one flight
//! and statements are paced; at full speed groups are large and become bulk writes. What counts is what the server says it
//! inserted, modified and deleted, never what it was asked for: a statement that changes nothing makes no event.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use mongodb::{
    Client, ClientSession, Database,
    bson::{Bson, Document, doc},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    flights::{Data, Flight},
    gauges::Gauges,
    pace::Pace,
    tally::Tally,
};

pub(crate) const DATABASE: &str = "air";
const FLIGHTS: &str = "flights";
/// One departure in so many is a transaction over three collections.
const TRANSACTION_EVERY: usize = 25;
/// One arrival in so many replaces the whole document.
const REPLACE_EVERY: usize = 10;
/// Documents of one insert of reference data.
const REFERENCE_GROUP: usize = 1000;

/// How a part of the replay is written.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) writers: usize,
    /// Flights that are written with one statement.
    pub(crate) group: usize,
    /// Groups of one writer between two steps of a flight's life.
    pub(crate) groups_between: usize,
    /// No new flight is taken after this; those under way are finished.
    pub(crate) until: Instant,
    /// No flight from this index on is taken.
    pub(crate) end: usize,
    pub(crate) pace: Option<Pace>,
}

/// The replay as a whole.
#[derive(Debug)]
pub(crate) struct Replay {
    client: Client,
    data: Data,
    next: AtomicUsize,
    gauges: Arc<Gauges>,
}

impl Replay {
    pub(crate) fn new(client: Client, data: Data, gauges: Arc<Gauges>) -> Self {
        Self { client, data, next: AtomicUsize::new(0), gauges }
    }

    /// Flights that have been taken so far.
    pub(crate) fn flights_taken(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.data.flights.len())
    }

    pub(crate) fn flights_in_all(&self) -> usize {
        self.data.flights.len()
    }

    /// Inserts what is there before the first flight.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn seed(&self) -> Result<Tally> {
        let database = self.client.database(DATABASE);
        let mut tally = Tally::default();
        for (name, documents) in &self.data.reference {
            for group in documents.chunks(REFERENCE_GROUP) {
                let inserted = insert(&database, name, group.to_vec()).await?;
                self.gauges.written.add(inserted);
                tally.add(name, "insert", inserted);
            }
        }
        Ok(tally)
    }

    /// Plays one part with all its writers.
    ///
    /// # Errors
    /// The first writer's error.
    pub(crate) async fn play(self: &Arc<Self>, part: Part) -> Result<Tally> {
        let part = Arc::new(part);
        let mut writers = JoinSet::new();
        for _ in 0..part.writers {
            let session = self.client.start_session().await.context("start a session")?;
            let writer = Writer {
                replay: self.clone(),
                part: part.clone(),
                database: self.client.database(DATABASE),
                session,
                tally: Tally::default(),
            };
            writers.spawn(writer.run());
        }
        let mut all = Tally::default();
        while let Some(ended) = writers.join_next().await {
            all.merge(&ended.context("a writer's task")??);
        }
        Ok(all)
    }

    /// The next flights that nobody has taken; `None` at the end of the part.
    fn take(&self, part: &Part) -> Option<Range<usize>> {
        let end = part.end.min(self.data.flights.len());
        let take = |next: usize| (next < end).then(|| end.min(next + part.group));
        if Instant::now() >= part.until {
            return None;
        }
        let start = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(start..end.min(start + part.group))
    }
}

struct Writer {
    replay: Arc<Replay>,
    part: Arc<Part>,
    database: Database,
    session: ClientSession,
    tally: Tally,
}

impl Writer {
    async fn run(mut self) -> Result<Tally> {
        let (mut scheduled, mut departed) = (VecDeque::new(), VecDeque::new());
        loop {
            let taken = self.replay.take(&self.part);
            let ending = taken.is_none();
            if let Some(flights) = taken {
                self.schedule(flights.clone()).await?;
                scheduled.push_back(flights);
            } else if scheduled.is_empty() && departed.is_empty() {
                return Ok(self.tally);
            }
            let is_due = |queue: &VecDeque<_>| ending || queue.len() > self.part.groups_between;
            let (depart, arrive) = (is_due(&scheduled), is_due(&departed));
            if let Some(flights) = scheduled.pop_front_if(|_| depart) {
                self.depart(flights.clone()).await?;
                departed.push_back(flights);
            }
            if let Some(flights) = departed.pop_front_if(|_| arrive) {
                self.arrive(flights).await?;
            }
        }
    }

    async fn schedule(&mut self, flights: Range<usize>) -> Result<()> {
        let replay = self.replay.clone();
        let documents: Vec<Document> =
            replay.data.flights[flights].iter().map(Flight::as_scheduled).collect();
        self.wait_for_turn(documents.len()).await;
        let inserted = insert(&self.database, FLIGHTS, documents).await?;
        self.count(FLIGHTS, "insert", inserted);
        Ok(())
    }

    /// Departures; cancelled flights are deleted.
    async fn depart(&mut self, flights: Range<usize>) -> Result<()> {
        let replay = self.replay.clone();
        let (mut updates, mut deletes) = (Vec::new(), Vec::new());
        for index in flights {
            let flight = &replay.data.flights[index];
            let filter = doc! { "_id": &flight.id };
            if flight.is_cancelled() {
                deletes.push(doc! { "q": filter, "limit": 1 });
            } else if index % TRANSACTION_EVERY == 0
                && let Some(plane) = &flight.plane
            {
                self.depart_with_plane(flight, plane).await?;
            } else {
                updates.push(doc! { "q": filter, "u": flight.departure() });
            }
        }
        self.change("update", "update", updates).await?;
        self.change("delete", "delete", deletes).await
    }

    /// The flight, its plane's last place and the destination's counter change together or not at all.
    async fn depart_with_plane(&mut self, flight: &Flight, plane: &str) -> Result<()> {
        let last = doc! { "airport": &flight.origin, "flight": &flight.id, "at": flight.departed() };
        let changes = [
            (FLIGHTS, doc! { "q": { "_id": &flight.id }, "u": flight.departure() }),
            ("planes", doc! { "q": { "_id": plane }, "u": { "$set": { "last": last } } }),
            ("airports", doc! { "q": { "_id": &flight.destination }, "u": { "$inc": { "expected": 1 } } }),
        ];
        self.wait_for_turn(changes.len()).await;
        let database = self.database.clone();
        let commands: Vec<Document> = changes
            .iter()
            .map(|(collection, change)| doc! { "update": *collection, "updates": [change.clone()] })
            .collect();
        // The driver runs it again after a conflict; only the run that was committed returns.
        let modified = self.session.start_transaction().and_run2(async move |session| {
            let mut modified = Vec::new();
            for command in commands.clone() {
                let reply = database.run_command(command).session(&mut *session).await?;
                modified.push(reply.get_i32("nModified").unwrap_or_default());
            }
            Ok(modified)
        });
        let modified = modified.await.context("a transaction over three collections")?;
        for ((collection, _), count) in changes.iter().zip(modified) {
            self.count(collection, "update", u64::try_from(count).context("nModified")?);
        }
        Ok(())
    }

    /// Arrivals of those that departed; some replace the document.
    async fn arrive(&mut self, flights: Range<usize>) -> Result<()> {
        let replay = self.replay.clone();
        let (mut updates, mut replacements) = (Vec::new(), Vec::new());
        for index in flights {
            let flight = &replay.data.flights[index];
            let filter = doc! { "_id": &flight.id };
            if flight.is_cancelled() {
                continue;
            }
            if index % REPLACE_EVERY == 0 {
                replacements.push(doc! { "q": filter, "u": flight.as_arrived() });
            } else {
                updates.push(doc! { "q": filter, "u": flight.arrival() });
            }
        }
        self.change("update", "update", updates).await?;
        self.change("update", "replace", replacements).await
    }

    /// Sends statements about flights and counts what the server says it changed.
    async fn change(&mut self, command: &str, operation: &str, statements: Vec<Document>) -> Result<()> {
        if statements.is_empty() {
            return Ok(());
        }
        self.wait_for_turn(statements.len()).await;
        let (list, counter) = if command == "delete" { ("deletes", "n") } else { ("updates", "nModified") };
        let mut request = Document::new();
        request.insert(command, FLIGHTS);
        request.insert(list, statements.into_iter().map(Bson::from).collect::<Vec<_>>());
        let reply =
            self.database.run_command(request).await.with_context(|| format!("{operation} flights"))?;
        if let Ok(errors) = reply.get_array("writeErrors") {
            bail!("{operation} flights: {errors:?}");
        }
        let changed = reply.get_i32(counter).context("the server does not say how much it changed")?;
        self.count(FLIGHTS, operation, u64::try_from(changed).context(counter)?);
        Ok(())
    }

    async fn wait_for_turn(&self, statements: usize) {
        if let Some(pace) = &self.part.pace {
            pace.wait(statements).await;
        }
    }

    fn count(&mut self, collection: &str, operation: &str, count: u64) {
        self.tally.add(collection, operation, count);
        self.replay.gauges.written.add(count);
    }
}

async fn insert(database: &Database, name: &str, documents: Vec<Document>) -> Result<u64> {
    let inserted = database.collection::<Document>(name).insert_many(documents).await;
    let inserted = inserted.with_context(|| format!("insert into {name}"))?;
    u64::try_from(inserted.inserted_ids.len()).context("a count of documents")
}
