//! One list of promises, kept by both lakes: a directory of this machine and Azure's Blob service, here Azurite.
//!
//! `promises` runs on both targets. What differs is how a fault is made: in front of Azurite stands a small proxy that
//! drops answers and holds requests (`azure_faults`), a directory's writer is killed (`directory_faults`). `chains` puts
//! the product's publishing loop on both and interrupts it at every step. Azurite and the broker are real ones, fetched
//! for the tests; without them these tests fail.

#![expect(clippy::unwrap_used, reason = "tests")]

mod azure_account;
mod azure_credentials;
mod azure_faults;
mod block_limit;
mod chains;
mod directory_faults;
mod facts;
mod layouts;
mod promises;
mod proxy;
mod sink;
mod target;

use target::Target;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_the_promises() {
    promises::keep_all(&Target::directory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_keeps_the_promises() {
    promises::keep_all(&Target::azurite().await).await;
}
