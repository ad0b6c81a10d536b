//! The Avro binary encoding of the fixed schema: fields in their order, nothing between them.

use super::{ChangeEvent, MAGIC, Meta, SchemaId};

/// Which branch of a union `["null", T]` follows.
const IS_NULL: i64 = 0;
const IS_THERE: i64 = 1;

impl<'a, F: ExactSizeIterator<Item = (&'a str, &'a str)>> ChangeEvent<'a, F> {
    /// Appends the event in Confluent's wire format.
    pub fn write(self, id: SchemaId, out: &mut Vec<u8>) {
        out.push(MAGIC);
        out.extend_from_slice(&id.get().to_be_bytes());
        let Meta {
            event_id,
            operation,
            namespace,
            cluster_time,
            wall_time_ms,
            lsid,
            txn_number,
            source,
            snapshot,
            processed_at_ms,
        } = self.meta;
        text(event_id, out);
        text(operation, out);
        match namespace {
            Some((db, coll)) => {
                long(IS_THERE, out);
                text(db, out);
                optional_text(coll, out);
            }
            None => long(IS_NULL, out),
        }
        long(cluster_time.seconds.into(), out);
        long(cluster_time.increment.into(), out);
        optional_long(wall_time_ms, out);
        optional_text(lsid, out);
        optional_long(txn_number, out);
        text(source, out);
        out.push(u8::from(snapshot));
        optional_long(processed_at_ms, out);
        optional_text(self.meta_text, out);
        optional_text(self.document_key, out);
        optional_text(self.full_document, out);
        optional_text(self.update_description, out);
        optional_text(self.full_document_before_change, out);
        // A map is blocks of entries; a block of none ends it.
        let count = i64::try_from(self.further.len()).expect("an event has fewer members than bytes");
        if count > 0 {
            long(count, out);
            for (name, value) in self.further {
                text(name, out);
                text(value, out);
            }
        }
        long(0, out);
    }
}

/// Zig-zag, then seven bits a byte, the lowest first.
#[inline]
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

#[inline]
fn text(text: &str, out: &mut Vec<u8>) {
    long(i64::try_from(text.len()).expect("a text in memory is shorter"), out);
    out.extend_from_slice(text.as_bytes());
}

fn optional_text(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            long(IS_THERE, out);
            text(value, out);
        }
        None => long(IS_NULL, out),
    }
}

fn optional_long(value: Option<i64>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            long(IS_THERE, out);
            long(value, out);
        }
        None => long(IS_NULL, out),
    }
}
