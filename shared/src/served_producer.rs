//! A producer whose delivery reports are served by a thread of its own, which rests while there are none.
//!
//! rdkafka's `ThreadedProducer` is the same, but does not rest: it waits for 100 ms, librdkafka waits for whole milliseconds
//! only, and what is left then, just under one, it spends asking without a pause. That was 1 % of a core for each
//! producer of a service that had nothing to do.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext as _,
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, ProducerContext},
};

/// How long the thread waits for reports. A little over 100 ms, so that it is 100 whole ones still when librdkafka is asked, and less
/// over than librdkafka comes back late, so that nothing is left.
const WAIT: Duration = Duration::from_micros(100_050);

/// See the module. Dropping it waits for the thread, for [`WAIT`] at most, and purges what was not delivered: flush first.
pub struct ServedProducer<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> ServedProducer<C> {
    /// The context's methods are called on the producer's thread, and on those that flush, commit and drop it.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration, or there is no thread to be had.
    pub fn new(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let producer = Arc::new(BaseProducer::from_config_and_context(config, context)?);
        let stop = Arc::new(AtomicBool::new(false));
        let serve = {
            let (producer, stop) = (Arc::clone(&producer), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    producer.poll(WAIT);
                }
            }
        };
        let no_thread = |error: io::Error| KafkaError::ClientCreation(format!("no thread: {error}"));
        let thread = Builder::new().name("producer".to_owned()).spawn(serve).map_err(no_thread)?;
        Ok(Self { producer, stop, thread: Some(thread) })
    }
}

impl<C: ProducerContext + 'static> Deref for ServedProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for ServedProducer<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the producer's thread has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{fs, sync::mpsc, time::Instant};

    use rdkafka::{
        ClientContext,
        producer::{BaseRecord, DeliveryResult},
    };

    use super::*;

    struct Reports(mpsc::SyncSender<bool>);

    impl ClientContext for Reports {
        fn error(&self, _error: KafkaError, _reason: &str) {}
    }

    impl ProducerContext for Reports {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            self.0.send(result.is_ok()).unwrap();
        }
    }

    /// Nothing listens there.
    fn unreachable() -> (ServedProducer<Reports>, mpsc::Receiver<bool>) {
        let (sender, reports) = mpsc::sync_channel(1);
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("message.timeout.ms", "100")
            .set("log_level", "0")
            // Else each failed attempt is a report.
            .set("reconnect.backoff.ms", "10000");
        (ServedProducer::new(&config, Reports(sender)).unwrap(), reports)
    }

    /// What the threads with this name have used of the processor.
    fn processor_time(thread: &str) -> Duration {
        let times = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
            let task = task.unwrap().path();
            let name = fs::read_to_string(task.join("comm")).ok()?;
            let spent = fs::read_to_string(task.join("schedstat")).ok()?;
            let nanoseconds = spent.split(' ').next()?.parse().ok()?;
            (name.trim_end() == thread).then(|| Duration::from_nanos(nanoseconds))
        });
        times.sum()
    }

    #[test]
    fn reports_come_and_the_thread_rests() {
        let (producer, reports) = unreachable();
        producer.send(BaseRecord::<(), _>::to("topic").payload("value")).map_err(|(error, _)| error).unwrap();
        assert!(!reports.recv_timeout(Duration::from_secs(30)).unwrap(), "nobody can have taken it");

        let (begun, before) = (Instant::now(), processor_time("producer"));
        assert!(reports.recv_timeout(Duration::from_secs(2)).is_err(), "nothing was sent");
        let (span, used) = (begun.elapsed(), processor_time("producer").checked_sub(before).unwrap());
        assert!(before > Duration::ZERO, "nothing was measured");
        assert!(used * 250 < span, "used {used:?} in {span:?}");
        let client = Arc::downgrade(&producer.producer);
        drop(producer);
        assert!(client.upgrade().is_none(), "the thread has ended");
    }
}
