//! A lake that somebody has damaged.
//!
//! Goal: `verify` finds each kind of damage and ends with 25, nothing to compare is not "all right", and a sink never begins
//! a chain a second time beside files of the first. Method: a healthy lake of one partition, copied, damaged by hand.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use pipeline_tests::service::{Binary, Environment, Service};

use crate::{
    records::{LONG_AGO_S, events, judge, make_topic},
    stage::{LIMIT, Stage},
};

const VERIFY_LIMIT: Duration = Duration::from_secs(60);

async fn verify_all(environment: &Environment, folder: &Path, name: &str) -> Result<(i32, String)> {
    let arguments = ["verify", "--all", "--drained"];
    let mut verify = Service::start_with(Binary::Sink, name, &arguments, environment.clone(), folder)?;
    let code = verify.exit_code(VERIFY_LIMIT).await?;
    Ok((code, verify.log_text()?))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_it_and_no_chain_begins_twice() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("damage")?;
    let topic = make_topic(&pipeline).await?;
    pipeline.kafka_writer().send(&topic, 0, events(&pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("ROLL_ROWS", 10))?;
    sink.wait_until_ready().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    sink.stop(LIMIT).await?;
    let healthy = pipeline.lake_folder().context("a directory")?.to_owned();
    let files = pipeline.lake().files().await?;
    let sealed = files.iter().find(|file| file.metadata.get("sealed").is_some_and(|sealed| sealed == "true"));
    let file = sealed.context("a sealed file")?.path.clone();
    let at = |root: &Path| {
        let url = format!("file://{}", root.display());
        pipeline.sink_environment().set("LAKE_URL", url)
    };

    let (code, text) = verify_all(&at(&healthy), pipeline.folder(), "verify-healthy").await?;
    ensure!(code == 0, "a healthy lake: {code}\n{text}");
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) -> Result<()> + 'a>);
    let damages: [Damage<'_>; 8] = [
        ("head-lost", Box::new(|root| Ok(fs::remove_file(root.join(format!("_chain/{topic}/p0.json")))?))),
        ("chain-lost", Box::new(|root| Ok(fs::remove_dir_all(root.join("_chain"))?))),
        ("file-lost", Box::new(|root| Ok(fs::remove_file(root.join(&file))?))),
        (
            "file-doubled",
            Box::new(|root| {
                let copy =
                    root.join(&file).with_file_name("events-20200101-00-p0000-00000000000000000099.jsonl");
                fs::copy(root.join(&file), copy)?;
                Ok(())
            }),
        ),
        (
            "partition-unknown",
            Box::new(|root| {
                let name = Path::new(&file).file_name().and_then(|name| name.to_str()).context("a name")?;
                fs::copy(
                    root.join(&file),
                    root.join(&file).with_file_name(name.replace("-p0000-", "-p0009-")),
                )?;
                Ok(())
            }),
        ),
        (
            "line-added",
            Box::new(|root| {
                let content = fs::read(root.join(&file))?;
                Ok(fs::write(root.join(&file), [&content[..], b"{\"_meta\":{}}\n"].concat())?)
            }),
        ),
        (
            "digit-changed",
            Box::new(|root| {
                let mut content = fs::read(root.join(&file))?;
                let digit = content.iter_mut().find(|byte| byte.is_ascii_digit()).context("a digit")?;
                *digit = if *digit == b'1' { b'2' } else { b'1' };
                Ok(fs::write(root.join(&file), content)?)
            }),
        ),
        (
            "line-lost",
            Box::new(|root| {
                let content = fs::read(root.join(&file))?;
                let end = content.iter().position(|byte| *byte == b'\n').context("a line")? + 1;
                Ok(fs::write(root.join(&file), &content[end..])?)
            }),
        ),
    ];
    for (name, damage) in &damages {
        let root = pipeline.folder().join(name);
        copy(&healthy, &root)?;
        damage(&root)?;
        let (code, text) = verify_all(&at(&root), pipeline.folder(), &format!("verify-{name}")).await?;
        ensure!(code == 25, "{name}: {code}\n{text}");
    }

    for name in ["head-lost", "chain-lost"] {
        let environment = at(&pipeline.folder().join(name)).set("SINK_GROUP", format!("damage-{name}"));
        let mut sink = pipeline.start(Binary::Sink, environment)?;
        let code = sink.exit_code(LIMIT).await?;
        let text = sink.log_text()?;
        ensure!(code == 25 && text.contains("--restore-head"), "a sink over {name}: {code}\n{text}");
    }

    // The head that is lost can be made again; without the rest of `_chain/` there is nothing to make it of.
    for (name, expected) in [("head-lost", 0), ("chain-lost", 25)] {
        let environment = at(&pipeline.folder().join(name)).set("SINK_GROUP", format!("restored-{name}"));
        let arguments = ["verify", "--topic", &topic, "--restore-head"];
        let verify_name = format!("restore-{name}");
        let mut verify = Service::start_with(
            Binary::Sink,
            &verify_name,
            &arguments,
            environment.clone(),
            pipeline.folder(),
        )?;
        let code = verify.exit_code(VERIFY_LIMIT).await?;
        ensure!(code == expected, "{name}: {code}\n{}", verify.log_text()?);
        if expected == 0 {
            ensure!(verify.log_text()?.contains("is there again"), "{}", verify.log_text()?);
            let mut sink = pipeline.start(Binary::Sink, environment)?;
            sink.wait_until_ready().await?;
            sink.stop(LIMIT).await?;
            let root = pipeline.folder().join(name);
            let (code, text) = verify_all(&at(&root), pipeline.folder(), "verify-restored").await?;
            ensure!(code == 0, "a lake whose head was made again: {code}\n{text}");
        }
    }

    let nothing = pipeline.folder().join("nothing");
    fs::create_dir(&nothing)?;
    let environment = at(&nothing).set("TOPIC_PREFIX", "no-such-prefix");
    let (code, text) = verify_all(&environment, pipeline.folder(), "verify-nothing").await?;
    ensure!(code == 78, "nothing to compare: {code}\n{text}");
    ensure!(fs::read_dir(&nothing)?.next().is_none(), "verify wrote into the lake");
    Ok(())
}
