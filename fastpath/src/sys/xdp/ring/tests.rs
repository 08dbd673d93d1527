use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn pair<T: Slot>(size: u32, start: u32) -> (Producer<T>, Consumer<T>, Arc<Region>) {
    let region = Region::plain(Layout::PLAIN.bytes::<T>(size));
    region.index(Layout::PLAIN.producer).unwrap().store(start, Ordering::Relaxed);
    region.index(Layout::PLAIN.consumer).unwrap().store(start, Ordering::Relaxed);
    let producer = Producer::new(region.clone(), Layout::PLAIN, size).unwrap();
    (producer, Consumer::new(region.clone(), Layout::PLAIN, size).unwrap(), region)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u8),
    Publish,
    Pop(u8),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..40).prop_map(Step::Push),
        Just(Step::Publish),
        (0u8..40).prop_map(Step::Pop),
        Just(Step::Release),
    ]
}

proptest! {
    /// The oracle: four counters and a queue of what was published.
    #[test]
    fn the_ring_does_what_counters_say(
        steps in prop::collection::vec(step(), 1..300),
        bits in 0u32..6,
        start in prop_oneof![Just(0u32), Just(u32::MAX - 5), any::<u32>()],
    ) {
        let size = 1u32 << bits;
        let (mut producer, mut consumer, _) = pair::<Desc>(size, start);
        let (mut pushed, mut published, mut popped, mut released) = (0u64, 0u64, 0u64, 0u64);
        let mut queue = VecDeque::new();
        for step in steps {
            match step {
                Step::Push(count) => for _ in 0..count {
                    let fits = pushed - released < u64::from(size);
                    let desc = Desc { addr: pushed * 3, len: pushed as u32, options: !0 };
                    prop_assert_eq!(producer.push(desc), fits);
                    if fits {
                        queue.push_back(desc);
                        pushed += 1;
                    }
                },
                Step::Publish => {
                    prop_assert_eq!(u64::from(producer.publish()), pushed - published);
                    published = pushed;
                }
                Step::Pop(count) => for _ in 0..count {
                    let expected = if popped < published { queue.pop_front() } else { None };
                    popped += u64::from(expected.is_some());
                    prop_assert_eq!(consumer.pop(), expected);
                },
                Step::Release => {
                    consumer.release();
                    released = popped;
                }
            }
            prop_assert_eq!(u64::from(producer.pending()), published - released);
            let free = u64::from(size) - (pushed - released);
            prop_assert_eq!(u64::from(producer.free(u32::MAX)), free);
        }
        prop_assert_eq!((producer.broken(), consumer.broken()), (0, 0));
    }

    /// Whatever the other side writes into its index, this side stays inside the ring.
    #[test]
    fn a_foreign_index_is_never_believed(indices in prop::collection::vec(any::<u32>(), 1..50)) {
        let (mut producer, mut consumer, region) = pair::<u64>(16, 7);
        for index in indices {
            region.index(Layout::PLAIN.consumer).unwrap().store(index, Ordering::Relaxed);
            prop_assert!(producer.free(u32::MAX) <= 16);
            prop_assert!(producer.pending() <= 16);
            producer.push(1);
            region.index(Layout::PLAIN.producer).unwrap().store(index, Ordering::Relaxed);
            prop_assert!(consumer.ready() <= 16);
            consumer.pop();
            consumer.release();
        }
    }
}

#[test]
fn a_wrong_index_is_counted_and_the_ring_recovers() {
    let (mut producer, mut consumer, region) = pair::<u64>(8, 0);
    let index = region.index(Layout::PLAIN.producer).unwrap();
    index.store(9, Ordering::Relaxed);
    assert_eq!((consumer.ready(), consumer.broken()), (0, 1));
    index.store(0, Ordering::Relaxed);
    assert!(producer.push(77));
    producer.publish();
    assert_eq!(consumer.pop(), Some(77));
}

#[test]
fn two_threads_pass_a_million_numbers_in_order() {
    const COUNT: u64 = 1_000_000;
    let (mut producer, mut consumer, _) = pair::<u64>(256, u32::MAX - 1000);
    let writer = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            while next < COUNT && producer.push(next) {
                next += 1;
            }
            producer.publish();
            std::thread::yield_now();
        }
    });
    let mut expected = 0;
    while expected < COUNT {
        while let Some(number) = consumer.pop() {
            assert_eq!(number, expected);
            expected += 1;
        }
        consumer.release();
        std::thread::yield_now();
    }
    writer.join().unwrap();
}

#[test]
fn a_crooked_layout_is_refused() {
    let region = Region::plain(256);
    let layout = Layout::PLAIN;
    assert!(Producer::<u64>::new(region.clone(), layout, 16).is_some());
    assert!(Producer::<u64>::new(region.clone(), layout, 17).is_none());
    assert!(Producer::<u64>::new(region.clone(), layout, 32).is_none());
    assert!(Consumer::<Desc>::new(region.clone(), layout, 16).is_none());
    assert!(Producer::<u64>::new(region.clone(), Layout { flags: 254, ..layout }, 16).is_none());
    assert!(Consumer::<u64>::new(region, Layout { slots: usize::MAX - 7, ..layout }, 16).is_none());
}
