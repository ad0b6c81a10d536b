//! Records in Avro, read by Apache's own library with the schema that the registry has: none of the product's code, and none
//! of its schema's text.

use std::collections::{BTreeMap, btree_map::Entry};

use anyhow::{Context, Result, bail, ensure};
use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use chrono::{DateTime, SecondsFormat};

use crate::{kafka_reader::KafkaContent, servers::Registry};

/// Puts in place of each value in Confluent's wire format the JSON that it stands for, says so in its `content-type`, and
/// counts them. Other values stay as they are.
///
/// # Errors
/// If the registry does not know a schema, or a value is not of it.
pub fn read_as_json(kafka: &mut KafkaContent, registry: &Registry) -> Result<usize> {
    let mut schemas: BTreeMap<u32, Schema> = BTreeMap::new();
    let mut count = 0;
    let records = kafka.topics.values_mut().flat_map(|partitions| partitions.values_mut());
    for record in records.flat_map(|part| &mut part.records) {
        let place = format!("{}/{}@{}", record.topic, record.partition, record.offset);
        let Some((&[0, a, b, c, d], mut datum)) = record.value.as_deref().and_then(<[u8]>::split_first_chunk)
        else {
            continue;
        };
        let id = u32::from_be_bytes([a, b, c, d]);
        let schema = match schemas.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Schema::parse_str(&registry.schema(id)?).context("the registry's schema")?)
            }
        };
        let reader = GenericDatumReader::builder(schema).build()?;
        let event = reader.read_value(&mut datum).with_context(|| place.clone())?;
        if !datum.is_empty() {
            bail!("{place}: {} bytes follow the datum", datum.len());
        }
        let json = envelope(&event).with_context(|| place.clone())?;
        let says = record.headers.iter_mut().find(|(name, _)| name == "content-type");
        let (_, says) = says.with_context(|| format!("{place}: no content-type"))?;
        ensure!(says == b"application/avro", "{place}: another content-type");
        *says = b"application/json".to_vec();
        record.value = Some(json.into_bytes());
        count += 1;
    }
    Ok(count)
}

/// The envelope as DESIGN §3 has it in JSON, relaxed dialect.
fn envelope(event: &Value) -> Result<String> {
    let document =
        |name: &str| optional_text(field(event, name)?).map(|text| text.unwrap_or("null").to_owned());
    let Value::Map(further) = field(event, "further")? else { bail!("`further` is no map") };
    let mut further: Vec<String> = further
        .iter()
        .map(|(name, value)| Ok(format!(",\"{name}\":{}", text(value)?)))
        .collect::<Result<_>>()?;
    // A map of the library's has no order: with more than one member a line could not be compared byte for byte.
    further.sort();
    Ok(format!(
        r#"{{"_meta":{},"documentKey":{},"fullDocument":{},"updateDescription":{},"fullDocumentBeforeChange":{}{}}}"#,
        meta(field(event, "_meta")?)?,
        document("documentKey")?,
        document("fullDocument")?,
        document("updateDescription")?,
        document("fullDocumentBeforeChange")?,
        further.concat(),
    ))
}

fn meta(meta: &Value) -> Result<String> {
    if let Some(text) = optional_text(field(meta, "text")?)? {
        return Ok(text.to_owned());
    }
    let quoted = |value: &Value| text(value).map(|text| serde_json::Value::from(text).to_string());
    let namespace = match optional(field(meta, "ns")?)? {
        None => "null".to_owned(),
        Some(ns) => match optional(field(ns, "coll")?)? {
            Some(coll) => format!(r#"{{"db":{},"coll":{}}}"#, quoted(field(ns, "db")?)?, quoted(coll)?),
            None => format!(r#"{{"db":{}}}"#, quoted(field(ns, "db")?)?),
        },
    };
    let time = field(meta, "clusterTime")?;
    let wall = match optional(field(meta, "wallTime")?)? {
        Some(instant) => format!(r#"{{"$date":"{}"}}"#, iso(instant)?),
        None => "null".to_owned(),
    };
    let transaction = match optional(field(meta, "txnNumber")?)? {
        Some(number) => long(number)?.to_string(),
        None => "null".to_owned(),
    };
    let processed = match optional(field(meta, "processedAt")?)? {
        Some(instant) => format!("\"{}\"", iso(instant)?),
        None => "null".to_owned(),
    };
    Ok(format!(
        r#"{{"eventId":{},"operationType":{},"ns":{namespace},"clusterTime":{{"$timestamp":{{"t":{},"i":{}}}}},"wallTime":{wall},"lsid":{},"txnNumber":{transaction},"source":{},"snapshot":{},"processedAt":{processed}}}"#,
        quoted(field(meta, "eventId")?)?,
        quoted(field(meta, "operationType")?)?,
        long(field(time, "t")?)?,
        long(field(time, "i")?)?,
        optional_text(field(meta, "lsid")?)?.unwrap_or("null"),
        quoted(field(meta, "source")?)?,
        *field(meta, "snapshot")? == Value::Boolean(true),
    ))
}

fn field<'v>(record: &'v Value, name: &str) -> Result<&'v Value> {
    let Value::Record(fields) = record else { bail!("{name} is asked of something that is no record") };
    let found = fields.iter().find(|(own, _)| own == name);
    found.map(|(_, value)| value).with_context(|| format!("there is no field {name}"))
}

fn optional(value: &Value) -> Result<Option<&Value>> {
    match value {
        Value::Union(_, inner) if **inner == Value::Null => Ok(None),
        Value::Union(_, inner) => Ok(Some(inner)),
        _ => bail!("not an optional value"),
    }
}

fn text(value: &Value) -> Result<&str> {
    if let Value::String(text) = value { Ok(text) } else { bail!("not a string") }
}

fn optional_text(value: &Value) -> Result<Option<&str>> {
    optional(value)?.map(text).transpose()
}

fn long(value: &Value) -> Result<i64> {
    if let Value::Long(number) = value { Ok(*number) } else { bail!("not a long") }
}

fn iso(value: &Value) -> Result<String> {
    let Value::TimestampMillis(ms) = value else { bail!("not an instant") };
    let instant = DateTime::from_timestamp_millis(*ms).context("an instant out of range")?;
    Ok(instant.to_rfc3339_opts(SecondsFormat::Millis, true))
}
