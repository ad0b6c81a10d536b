#![expect(clippy::unwrap_used, reason = "tests")]

use bson::doc;

use super::*;

fn refused(stages: &str) -> String {
    match Pipeline::parse(stages) {
        Err(PipelineError::Refused(refused)) => join(&refused),
        other => panic!("{stages}: {other:?}"),
    }
}

fn stages(text: &str) -> Vec<Document> {
    Pipeline::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).stages
}

#[test]
fn only_stages_of_the_list_are_taken() {
    for stage in
        ["$group", "$limit", "$sort", "$unwind", "$lookup", "$out", "$merge", "$count", "$changeStream"]
    {
        let error = refused(&format!(r#"[{{"$match": {{}}}}, {{"{stage}": {{}}}}]"#));
        assert!(error.starts_with(&format!("stage 2 ({stage}) is none of $match, $project")), "{error}");
    }
    assert!(refused(r#"[{}]"#).contains("exactly one name"));
    assert!(refused(r#"[{"$set": {"a": 1}, "$unset": "b"}]"#).contains("exactly one name"));
}

#[test]
fn what_routes_keys_and_places_an_event_must_stay() {
    for (stage, reason) in [
        (r#"{"$project": {"_id": 0}}"#, "drops _id, which is the resume token"),
        (r#"{"$project": {"_id": false, "fullDocument": 1}}"#, "drops _id"),
        (r#"{"$project": {"_id": "$documentKey._id"}}"#, "alters _id"),
        (r#"{"$project": {"_id._data": 1}}"#, "alters _id"),
        (r#"{"$project": {"_id": {"_data": 1}}}"#, "alters _id"),
        (r#"{"$project": {"ns": 0}}"#, "drops ns, which routing, key or position"),
        (r#"{"$project": {"ns": {"coll": 0}}}"#, "drops ns"),
        (r#"{"$project": {"ns.db": 1}}"#, "alters ns"),
        (r#"{"$project": {"documentKey": {"$literal": 1}}}"#, "alters documentKey"),
        (r#"{"$set": {"_id": 1}}"#, "alters _id"),
        (r#"{"$set": {"_id.x": 1}}"#, "alters _id"),
        (r#"{"$addFields": {"clusterTime": "$wallTime"}}"#, "alters clusterTime"),
        (r#"{"$addFields": {"operationType": {"$toUpper": "$operationType"}}}"#, "alters operationType"),
        (r#"{"$unset": "_id"}"#, "drops _id"),
        (r#"{"$unset": ["fullDocument.a", "ns.coll"]}"#, "drops ns"),
        (r#"{"$replaceWith": "$fullDocument"}"#, "puts $fullDocument in the event's place"),
        (r#"{"$replaceRoot": {"newRoot": "$fullDocument"}}"#, "puts $fullDocument in the event's place"),
        (r#"{"$replaceWith": {"_id": "$_id", "ns": "$ns"}}"#, "drops operationType"),
        (r#"{"$replaceWith": {"_id": "$documentKey._id"}}"#, "alters _id"),
    ] {
        let error = refused(&format!("[{stage}]"));
        assert!(error.contains(reason), "{stage}: {error}");
    }
}

#[test]
fn names_of_the_envelope_are_taken() {
    for (stage, name) in [
        (r#"{"$set": {"_meta": {"a": 1}}}"#, "_meta"),
        (r#"{"$addFields": {"_kafka.offset": 1}}"#, "_kafka"),
        (r#"{"$project": {"_meta": {"$literal": 1}, "ns": 1}}"#, "_meta"),
        (r#"{"$set": {"lsid": "x"}}"#, "lsid"),
        (r#"{"$set": {"splitEvent": "x"}}"#, "splitEvent"),
        (r#"{"$set": {"fullDocument": {"$mergeObjects": ["$fullDocument", {}]}}}"#, "fullDocument"),
        (r#"{"$project": {"updateDescription": "$fullDocument"}}"#, "updateDescription"),
    ] {
        let error = refused(&format!("[{stage}]"));
        assert!(error.contains(&format!("computes {name}, a name that is ")), "{stage}: {error}");
    }
}

#[test]
fn what_leaves_events_whole_is_taken() {
    for text in [
        "[]",
        r#"[{"$match": {"fullDocument.total": {"$gte": 1000}}}, {"$redact": "$$DESCEND"}]"#,
        r#"[{"$set": {"severity": "high", "fullDocument.masked": true, "updateDescription": {"note": 1}, "_id": "$_id"}}]"#,
        r#"[{"$unset": ["fullDocument.secret", "wallTime", "lsid", "fullDocumentBeforeChange"]}]"#,
        r#"[{"$project": {"fullDocument.secret": 0, "lsid": 0, "_id": 1}}]"#,
        r#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"a": 1}]}}, {"$replaceRoot": {"newRoot": "$$ROOT"}}]"#,
        r#"[{"$replaceWith": {"_id": "$_id", "operationType": "$operationType", "ns": "$ns", "clusterTime": "$clusterTime",
             "documentKey": "$documentKey", "wallTime": "$wallTime", "fullDocument": {"a": "$fullDocument.a"}, "kind": "x"}}]"#,
    ] {
        let taken = stages(text);
        assert_eq!(taken, json::documents(text).unwrap(), "{text}");
    }
}

/// A `$project` that includes narrows documents; it does not take an event apart.
#[test]
fn an_including_project_keeps_what_an_event_needs() {
    let kept = doc! { "operationType": 1, "clusterTime": 1, "documentKey": 1, "wallTime": 1, "lsid": 1, "txnNumber": 1, "to": 1,
    "operationDescription": 1 };
    let mut expected =
        doc! { "fullDocument.total": 1, "ns": true, "big": { "$gt": ["$fullDocument.total", 5] } };
    expected.extend(kept);
    let text = r#"[{"$project": {"fullDocument.total": 1, "ns": true, "big": {"$gt": ["$fullDocument.total", 5]}}}]"#;
    assert_eq!(stages(text), [doc! { "$project": expected }]);
    let only_id = stages(r#"[{"$project": {"_id": 1}}]"#);
    assert!(only_id[0].get_document("$project").unwrap().contains_key("ns"), "{only_id:?}");
}

#[test]
fn every_mistake_is_named() {
    let error =
        Pipeline::parse(r#"[{"$group": {}}, {"$match": {}}, {"$unset": "ns"}]"#).unwrap_err().to_string();
    assert!(error.contains("stage 1 ($group) ") && error.contains("; stage 3 ($unset) drops ns"), "{error}");
    assert!(matches!(Pipeline::parse("[{\"$match\": {}"), Err(PipelineError::NoPipeline(_))));
    assert!(matches!(Pipeline::read(Path::new("/nowhere.json")), Err(PipelineError::Unreadable(_))));
}

#[test]
fn blanks_make_no_other_pipeline_and_the_order_of_names_does() {
    let text = |json| Pipeline::parse(json).unwrap().text();
    let one = text(r#"[{"$match":{"a":{"x":1,"y":2}}}]"#);
    assert_eq!(one, text("[ {\"$match\": {\n \"a\": {\"x\": 1, \"y\": 2}}}]"));
    assert_ne!(one, text(r#"[{"$match":{"a":{"y":2,"x":1}}}]"#));
}

#[test]
fn filters_that_hide_deletes_are_told() {
    let warned = |filter: &str, operations: &Operations, looked_up| {
        let pipeline = Pipeline::parse(&format!(r#"[{{"$match": {filter}}}]"#)).unwrap();
        pipeline.warnings(operations, looked_up).join("\n")
    };
    let all = Operations::default();
    for (filter, clause) in [
        (r#"{"fullDocument.status": "active"}"#, "fullDocument.status"),
        (r#"{"fullDocument.total": {"$gte": 1000}}"#, "fullDocument.total"),
        (r#"{"$and": [{"ns.coll": "a"}, {"fullDocument.a": {"$exists": true}}]}"#, "fullDocument.a"),
        (r#"{"$or": [{"fullDocument.a": 1}, {"operationType": "insert"}]}"#, "fullDocument.a"),
        (r#"{"$expr": {"$gt": ["$fullDocument.total", 5]}}"#, "fullDocument.total"),
        (r#"{"$nor": [{"fullDocument.a": {"$exists": false}}]}"#, "fullDocument.a"),
        (r#"{"fullDocument": {"$ne": null}}"#, "fullDocument"),
    ] {
        let warning = warned(filter, &all, true);
        assert!(
            warning.starts_with(&format!("stage 1 ($match) asks for {clause}, which a delete")),
            "{filter}: {warning}"
        );
        // Nobody wants deletes: nothing is hidden.
        assert_eq!(warned(filter, &Operations::only(&["insert", "update"]), true), "", "{filter}");
    }
    for filter in [
        r#"{"operationType": {"$in": ["insert", "update"]}}"#,
        r#"{"operationType": "insert", "fullDocument.a": 1}"#,
        r#"{"$or": [{"operationType": "delete"}, {"fullDocument.a": 1}]}"#,
        r#"{"$expr": {"$or": [{"$eq": ["$operationType", "delete"]}, {"$gt": ["$fullDocument.a", 1]}]}}"#,
        r#"{"fullDocument.deleted": {"$ne": true}}"#,
        r#"{"fullDocument.a": {"$nin": [1, 2]}}"#,
        r#"{"fullDocument.a": null}"#,
        r#"{"fullDocumentBeforeChange.a": 1}"#,
        r#"{"updateDescription.updatedFields.status": {"$exists": true}}"#,
    ] {
        assert_eq!(warned(filter, &all, true), "", "{filter}");
    }
    let updates = warned(r#"{"$or": [{"operationType": "delete"}, {"fullDocument.a": 1}]}"#, &all, false);
    assert!(updates.contains("an update does not have with FULL_DOCUMENT=default"), "{updates}");
}

#[test]
fn the_time_of_the_opening_is_told_from_the_events() {
    let pipeline = Pipeline::parse(r#"[{"$set": {"at": "$$NOW", "nowhere": "$$NOWHERE"}}]"#).unwrap();
    let warnings = pipeline.warnings(&Operations::default(), true);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("stage 1 ($set) uses $$NOW, which"), "{warnings:?}");
}
