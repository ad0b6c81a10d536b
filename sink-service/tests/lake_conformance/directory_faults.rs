//! Writers of a directory that are killed, for real: a child process appends until `kill -9` ends it, at whatever point
//! of a step it then is. What it confirmed must be there, and nothing twice. Dying after the rename, the lost answer
//! of a directory, is one of these points.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use shared::settings::Secret;
use sink_service::lake::{Lake, LakeAuth, LakeTarget};

use crate::facts::{append, content, create, path, state};

const LAKE: &str = "CONFORMANCE_CHILD_LAKE";
const FILE: &str = "shop/orders/hour=00/a.jsonl";
const ROUNDS: usize = 25;

fn open(root: &str) -> Lake {
    let target = LakeTarget::parse(&format!("file://{root}"), None).unwrap();
    Lake::open(&target, Some(&LakeAuth::SharedKey(Secret::new("")))).unwrap()
}

/// Not a test of its own: the process that is killed. Prints each line's number once it is confirmed.
#[tokio::test]
#[ignore = "started by killed_writers_lose_and_double_nothing"]
async fn child_appends_until_it_is_killed() {
    let lake = open(&env::var(LAKE).unwrap());
    let at = path(FILE);
    let mut known = lake.file(&at).await.unwrap();
    loop {
        let number = known.as_ref().map_or(0, |state| state.metadata.rows);
        // Lines of many lengths, so that a dead writer's bytes never happen to fit.
        let line = format!("{number} {}\n", "x".repeat(usize::try_from(number * 7919 % 50_000).unwrap()));
        let done = match &known {
            None => create(&lake, &at, &[line.as_str()]).await,
            Some(state) => append(&lake, &at, state, &[line.as_str()]).await,
        };
        known = Some(done.unwrap());
        writeln!(std::io::stdout(), "confirmed {number}").unwrap();
    }
}

#[tokio::test]
async fn killed_writers_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let lake = open(root);
    lake.prepare().await.unwrap();
    let at = path(FILE);
    let mut rows_before = 0;
    let mut unconfirmed_steps = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "directory_faults::child_appends_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(LAKE, root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut confirmed = Vec::new();
        // After a few confirmations it is killed in the middle of what it does next; how far that is varies by itself.
        while confirmed.len() <= round % 4 {
            let line = lines.next().expect("the child appends until it is killed").unwrap();
            if let Some(number) = line.rsplit_once("confirmed ").map(|(_, text)| text.parse::<u64>().unwrap())
            {
                confirmed.push(number);
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(137 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            let line = line.unwrap();
            confirmed.extend(line.rsplit_once("confirmed ").map(|(_, text)| text.parse::<u64>().unwrap()));
        }
        assert_eq!(confirmed.first(), Some(&rows_before), "the child went on where the last one ended");
        let rows = state(&lake, &at).await.metadata.rows;
        let last = confirmed.last().unwrap();
        assert!(rows > *last, "line {last} was confirmed, {rows} lines are there");
        assert!(rows <= last + 2, "at most one step was in doubt");
        unconfirmed_steps += u64::from(rows == last + 2);
        rows_before = rows;
    }
    let text = content(&lake, &at).await;
    for (number, line) in text.lines().enumerate() {
        assert_eq!(line.split(' ').next(), Some(number.to_string().as_str()));
    }
    writeln!(
        std::io::stderr(),
        "{rows_before} lines, {unconfirmed_steps} of {ROUNDS} deaths after the rename"
    )
    .unwrap();
}
