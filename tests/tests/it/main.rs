//! End-to-end tests on real servers, one module per behaviour. All in one binary: linking costs more than running.
//!
//! Every test judges with the ledger (`pipeline_tests::ledger`), never by spot checks, and fails when something that
//! it needs is not there. Run with at most two at once: the machine that these limits are made for has two cores.

mod avro;
mod avro_replay;
mod azure_identities;
mod broker_restart;
mod check;
mod closing;
mod compare;
mod compose;
mod compression;
mod control;
mod damage;
mod dashboards;
mod dead_letters;
mod dlq;
mod export;
mod fenced;
mod gap;
mod gate;
mod generation;
mod harness;
mod hours;
mod idle;
mod kill_nine;
mod lake_outage;
mod large_records;
mod layout;
mod many_partitions;
mod memory;
mod mongod_restart;
mod password_proxy;
mod poison;
mod profiles;
mod readers;
mod rebalance;
mod records;
mod recreated;
mod repeats;
mod replay;
mod replay_by_time;
mod retention;
mod rights;
mod schema_check;
mod sealed;
mod seeded_bugs;
mod servers;
mod shutdown;
mod slow_collection;
mod stage;
mod stalled;
mod two_groups;
mod zombie;
