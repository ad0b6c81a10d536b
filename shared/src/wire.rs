//! The wire between the two services: names that stand in Kafka records. DESIGN "Wire format" fixes them.

/// Version of the envelope and its headers, sent in [`header::SCHEMA_VERSION`].
pub const SCHEMA_VERSION: &str = "1";

/// Content type of an envelope in JSON.
pub const CONTENT_TYPE_JSON: &str = "application/json";

/// Content type of an envelope in Avro, in Confluent's wire format.
pub const CONTENT_TYPE_AVRO: &str = "application/avro";

/// Headers of every record in a data topic and in the control topic.
pub mod header {
    pub const OPERATION_TYPE: &str = "operation-type";
    pub const DATABASE: &str = "database";
    pub const COLLECTION: &str = "collection";
    /// `<seconds>.<increment>`, see [`crate::cluster_time::ClusterTime`].
    pub const CLUSTER_TIME: &str = "cluster-time";
    /// The `_data` of the event's resume token; its bytes sort as the stream does.
    pub const EVENT_ID: &str = "event-id";
    /// `<source id>/<run>`.
    pub const SOURCE: &str = "source";
    pub const CONTENT_TYPE: &str = "content-type";
    pub const SCHEMA_VERSION: &str = "schema-version";
    /// `true` on snapshot rows, absent elsewhere.
    pub const SNAPSHOT: &str = "snapshot";
}

/// Members of the envelope. They are always there, in this order; an absent part is `null`.
pub mod member {
    pub const META: &str = "_meta";
    pub const DOCUMENT_KEY: &str = "documentKey";
    pub const FULL_DOCUMENT: &str = "fullDocument";
    pub const UPDATE_DESCRIPTION: &str = "updateDescription";
    pub const FULL_DOCUMENT_BEFORE_CHANGE: &str = "fullDocumentBeforeChange";
    /// Of events of a multi-document transaction only: their place in it.
    pub const TRANSACTION: &str = "transaction";
    /// Of events only whose documents were too large: what is not there.
    pub const OVERSIZE: &str = "oversize";
    /// Added by the sink as the line's last member.
    pub const KAFKA: &str = "_kafka";
}
