//! A topic that is deleted and made again under a running sink.
//!
//! Goal: the sink sees that it is another topic, ends with 23 and publishes nothing of it. Method: the new topic gets more
//! records than the old one had, so that a consumer that only looks at offsets would go on happily.

use anyhow::{Result, ensure};
use pipeline_tests::wait;

use crate::{
    check::Checked,
    records::{LONG_AGO_S, events, judge, make_topic},
    stage::{LIMIT, Stage},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_ends_with_23_and_publishes_nothing() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("recreated")?;
    let writer = pipeline.kafka_writer();
    let topic = make_topic(&pipeline).await?;
    writer.send(&topic, 0, events(&pipeline, 0..40, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    // The hour is long over: the file is sealed as soon as the sink knows, which is the last thing that happens to it.
    let before = wait::until("the file is sealed", LIMIT, || async {
        let lake = pipeline.lake().read().await?;
        let sealed =
            lake.files.iter().all(|file| file.metadata.get("sealed").is_some_and(|sealed| sealed == "true"));
        Ok(sealed.then_some(lake))
    })
    .await?;

    writer.delete_topic(&topic).await?;
    make_topic(&pipeline).await?;
    writer.send(&topic, 0, events(&pipeline, 1_000..1_100, LONG_AGO_S)).await?;
    let code = sink.exit_code(LIMIT).await?;
    ensure!(code == 23, "ended with {code}\n{}", sink.log_tail());
    let after = pipeline.lake().read().await?;
    ensure!(after.files == before.files, "something of the new topic was published");

    // Nor does the next one begin, and that is known before it.
    let checked = Checked::with(&pipeline, "check", pipeline.sink_environment()).await?;
    checked.ends_with(23, &[&format!("chain of {topic}")])?;
    let mut sink = pipeline.start_sink()?;
    let code = sink.exit_code(LIMIT).await?;
    ensure!(code == 23, "the next one ended with {code}\n{}", sink.log_tail());
    ensure!(pipeline.lake().read().await?.files == before.files, "the next one published something");
    Ok(())
}
