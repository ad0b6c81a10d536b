//! Waiting for conditions, never for time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// The pause between two looks at what is waited for since `started`. It bounds how late a wait ends, nothing else: by a twentieth of what
/// it took, since a look costs the servers something, and tests run beside each other.
pub async fn before_next_look(started: Instant) {
    let pause = (started.elapsed() / 20).clamp(Duration::from_millis(50), Duration::from_millis(500));
    tokio::time::sleep(pause).await;
}

/// Looks at `condition` until it is `Ok(Some(value))`.
///
/// `Ok(None)` means "not yet"; an error ends the wait at once, so that a server's death is not waited out.
///
/// # Errors
/// The condition's own error, or that `what` did not happen within `limit`.
pub async fn until<T, F, C>(what: &str, limit: Duration, mut condition: C) -> Result<T>
where
    C: FnMut() -> F,
    F: Future<Output = Result<Option<T>>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if started.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        before_next_look(started).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move { Ok((seen == 3).then_some(seen)) }
        })
        .await
        .expect("comes true");
        assert_eq!(value, 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_comes_true_is_named() {
        let error =
            until::<(), _, _>("the sea is dry", Duration::from_millis(1), || async { Ok(None) }).await;
        assert!(error.expect_err("never").to_string().starts_with("the sea is dry"));
    }
}
