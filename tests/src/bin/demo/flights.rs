//! The data: 336,776 real flights from New York's airports in 2013, and what belongs to them.

use std::collections::HashSet;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use mongodb::bson::{self, Document, doc};
use pipeline_tests::paths;

use crate::table::{Row, Table};

/// How one flight went.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) id: String,
    carrier: String,
    number: i32,
    /// Only of planes that the data knows.
    pub(crate) plane: Option<String>,
    pub(crate) origin: String,
    pub(crate) destination: String,
    scheduled: DateTime<Utc>,
    distance_miles: i32,
    /// `None`: it was cancelled.
    departure_delay: Option<TimeDelta>,
    /// `None`, although it departed: it was diverted.
    arrival_delay: Option<TimeDelta>,
    air_time: Option<TimeDelta>,
}

impl Flight {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.departure_delay.is_none()
    }

    /// The document as it is inserted, before anything is known about the flight.
    pub(crate) fn as_scheduled(&self) -> Document {
        doc! {
            "_id": &self.id,
            "carrier": &self.carrier,
            "flight": self.number,
            "tail_number": self.plane.as_deref(),
            "origin": &self.origin,
            "destination": &self.destination,
            "scheduled": instant(self.scheduled),
            "distance_miles": self.distance_miles,
            "status": "scheduled",
        }
    }

    /// What the departure changes.
    pub(crate) fn departure(&self) -> Document {
        doc! { "$set": { "status": "departed", "departure": self.departure_facts() } }
    }

    /// What the arrival changes.
    pub(crate) fn arrival(&self) -> Document {
        doc! { "$set": { "status": self.end(), "arrival": self.arrival_facts() } }
    }

    /// The whole document after the arrival: for archives that replace instead of updating.
    pub(crate) fn as_arrived(&self) -> Document {
        let mut whole = self.as_scheduled();
        whole.insert("status", self.end());
        whole.insert("departure", self.departure_facts());
        whole.insert("arrival", self.arrival_facts());
        whole.insert("archived", true);
        whole
    }

    /// When it departed, or should have.
    pub(crate) fn departed(&self) -> bson::DateTime {
        instant(self.scheduled + self.departure_delay.unwrap_or_default())
    }

    fn departure_facts(&self) -> Document {
        let delay = self.departure_delay.unwrap_or_default();
        doc! { "at": self.departed(), "delay_minutes": delay.num_minutes() }
    }

    fn arrival_facts(&self) -> Document {
        doc! {
            "delay_minutes": self.arrival_delay.map(|delay| delay.num_minutes()),
            "air_time_minutes": self.air_time.map(|time| time.num_minutes()),
        }
    }

    fn end(&self) -> &'static str {
        if self.arrival_delay.is_some() { "landed" } else { "diverted" }
    }
}

/// Everything that is replayed.
#[derive(Debug)]
pub(crate) struct Data {
    /// By scheduled departure.
    pub(crate) flights: Vec<Flight>,
    /// Collections that are there before the first flight.
    pub(crate) reference: Vec<(&'static str, Vec<Document>)>,
}

impl Data {
    /// Reads the fetched files.
    ///
    /// # Errors
    /// If they were not fetched, or are not what they were.
    pub(crate) fn read() -> Result<Self> {
        let planes = documents("planes", |row| Ok(row.known("tailnum")?.into()))?;
        let known: HashSet<&str> = planes.iter().filter_map(|plane| plane.get_str("_id").ok()).collect();
        let table = table("flights")?;
        let flights: Result<Vec<Flight>> = table.rows().map(|row| flight(row, &known)).collect();
        let mut flights = flights.context("read the flights")?;
        flights.sort_by(|a, b| (a.scheduled, &a.id).cmp(&(b.scheduled, &b.id)));
        let reference = vec![
            ("airlines", documents("airlines", |row| Ok(row.known("carrier")?.into()))?),
            ("airports", documents("airports", |row| Ok(row.known("faa")?.into()))?),
            ("weather", documents("weather", weather_id)?),
            ("planes", planes),
        ];
        Ok(Self { flights, reference })
    }
}

fn flight(row: Row<'_>, planes: &HashSet<&str>) -> Result<Flight> {
    let (carrier, number) = (row.known("carrier")?, row.number("flight")?.context("no flight number")?);
    let origin = row.known("origin")?;
    let number_of = |column| row.number(column)?.with_context(|| format!("{column} is NA"));
    let (year, month, day) = (number_of("year")?, number_of("month")?, number_of("day")?);
    let minutes =
        |column| Ok::<_, anyhow::Error>(row.number(column)?.map(|count| TimeDelta::minutes(count.into())));
    Ok(Flight {
        id: format!("{year}-{month:02}-{day:02}-{carrier}{number}-{origin}"),
        carrier: carrier.to_owned(),
        number,
        plane: row.text("tailnum")?.filter(|plane| planes.contains(plane)).map(str::to_owned),
        origin: origin.to_owned(),
        destination: row.known("dest")?.to_owned(),
        scheduled: row.instant("time_hour")? + TimeDelta::minutes(number_of("minute")?.into()),
        distance_miles: number_of("distance")?,
        departure_delay: minutes("dep_delay")?,
        arrival_delay: minutes("arr_delay")?,
        air_time: minutes("air_time")?,
    })
}

fn weather_id(row: Row<'_>) -> Result<bson::Bson> {
    Ok(doc! { "airport": row.known("origin")?, "hour": instant(row.instant("time_hour")?) }.into())
}

/// The rows of a file as documents, each with the `_id` that `id` makes of it.
fn documents(name: &str, id: fn(Row<'_>) -> Result<bson::Bson>) -> Result<Vec<Document>> {
    let table = table(name)?;
    let rows = table.rows().map(|row| {
        let mut document = doc! { "_id": id(row)? };
        document.extend(row.document());
        Ok(document)
    });
    rows.collect::<Result<_>>().with_context(|| format!("read {name}"))
}

fn table(name: &str) -> Result<Table> {
    Table::read(&paths::fetched(&format!("data/{name}.csv"), "--data")?)
}

fn instant(time: DateTime<Utc>) -> bson::DateTime {
    bson::DateTime::from_millis(time.timestamp_millis())
}
