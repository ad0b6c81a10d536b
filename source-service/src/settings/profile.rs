//! `EVENT_PROFILE` and `TOMBSTONES`, and what cannot be set beside them.

use shared::settings::{Reader, Setting};

use super::{
    EVENT_PROFILE, JSON_DIALECT, KEY_FORMAT, OVERSIZE, PIPELINE_FILE, TOMBSTONES, VALUE_FORMAT,
    read_key_format,
};
use crate::{
    change_stream::{Oversize, StreamOptions},
    envelope::{EventProfile, KeyFormat},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
}

/// The form of records, and of keys with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordForm {
    pub profile: EventProfile,
    pub key_format: KeyFormat,
    /// A deletion is followed by a record without a value, for compaction.
    pub tombstones: bool,
}

/// `avro`: whether values are in Avro. `None` if a mistake was recorded.
pub(super) fn read(reader: &mut Reader, stream: Option<&StreamOptions>, avro: bool) -> Option<RecordForm> {
    let profile: Option<EventProfile> = reader.choice(&EVENT_PROFILE);
    let tombstones: Option<Option<OnOff>> =
        if reader.is_given(&TOMBSTONES) { reader.choice(&TOMBSTONES).map(Some) } else { Some(None) };
    let key_format = read_key_format(reader);
    let (profile, tombstones) = (profile?, tombstones?);
    let form = |key_format, by_default| RecordForm {
        profile,
        key_format,
        tombstones: tombstones.map_or(by_default, |choice| choice == OnOff::On),
    };
    if profile == EventProfile::Atlas {
        return Some(form(key_format?, false));
    }
    let mut refused = false;
    let mut refuse = |reader: &mut Reader, setting: &Setting, what: &str| {
        refused = true;
        reader.refuse(setting, format!("{what} together with EVENT_PROFILE={}", profile.as_str()));
    };
    for setting in [&KEY_FORMAT, &JSON_DIALECT] {
        if reader.is_given(setting) {
            refuse(reader, setting, "nothing, for the profile decides it,");
        }
    }
    if avro {
        refuse(reader, &VALUE_FORMAT, "json");
    }
    if stream.is_some_and(|stream| stream.oversize == Oversize::Stub) {
        refuse(reader, &OVERSIZE, "stop, for a stub is a form of the envelope,");
    }
    if profile == EventProfile::MongoKafka && tombstones == Some(OnOff::On) {
        refuse(reader, &TOMBSTONES, "off, for that connector writes none with whole events,");
    }
    let computed = stream.and_then(|stream| stream.pipeline.as_ref()?.computed_member());
    if let Some(name) = computed.filter(|_| profile == EventProfile::Debezium) {
        refuse(
            reader,
            &PIPELINE_FILE,
            &format!("a pipeline that does not compute {name}, for which there is no place,"),
        );
    }
    let key_format = match profile {
        EventProfile::Atlas => key_format?,
        EventProfile::Debezium => KeyFormat::Debezium,
        EventProfile::MongoKafka => KeyFormat::MongoKafka,
    };
    (!refused).then(|| form(key_format, profile == EventProfile::Debezium))
}
