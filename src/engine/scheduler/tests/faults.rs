//! Devices that fail, anywhere: the answer goes on.

use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::backend::Best;
use crate::backend::hooked::Call;
use crate::engine::devices;

/// A device that is lost at a call, counted from 1, and stays lost.
struct Fault {
    calls: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<Call>>>,
    device: Arc<HookedBackend>,
}

impl Fault {
    fn at(call: usize) -> Fault {
        let (calls, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let (counter, failed) = (Arc::clone(&calls), Arc::clone(&last));
        let device = HookedBackend::new("gpu", 1.02, move |what| {
            if counter.fetch_add(1, Ordering::SeqCst) + 1 < call {
                return Ok(());
            }
            failed.lock().expect("no test panics here").get_or_insert(what);
            Err(BackendError::NoGpuSupport)
        });
        Fault { calls, last, device: Arc::new(device) }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn failed(&self) -> Option<Call> {
        *self.last.lock().expect("no test panics here")
    }
}

thread_local! {
    /// What was said to the user by this thread.
    static SAID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to [`SAID`].
struct Said;

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        SAID.with_borrow_mut(|said| said.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `f`; gives the warnings too.
fn listen<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    // One subscriber for all threads: whether a warning is wanted is decided once for each place in the code, and with a
    // subscriber for each thread the first one to come by, which may be no listener, would decide for all.
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| Said);
        tracing::subscriber::set_global_default(subscriber.with_ansi(false).finish()).expect("no other test sets one");
        tracing::callsite::rebuild_interest_cache();
    });
    SAID.take();
    let result = f();
    (result, String::from_utf8_lossy(&SAID.take()).lines().map(str::to_owned).collect())
}

/// Placements in which the failing device has everything, some layers, prompts only, generated tokens only.
const PLACEMENTS: [[&str; 2]; 4] = [
    ["embed=gpu,0-3=gpu,head=gpu", "embed=gpu,0-3=gpu,head=gpu"],
    ["embed=cpu,0=gpu,1=cpu,2-=gpu,head=cpu", "embed=cpu,0=gpu,1=cpu,2-=gpu,head=cpu"],
    ["gpu", "cpu"],
    ["embed=cpu,0-1=cpu,2-=gpu,head=gpu", "gpu"],
];

/// An engine with a device that fails; with `rescue` the CPU takes over.
fn engine(fault: &Fault, placements: [&str; 2], rescue: bool) -> Result<Engine, ExecutorError> {
    let backends = [cpu(), Arc::clone(&fault.device) as Arc<dyn Backend>];
    let mut engine = engine_with(placements, &backends, KvType::F16)?;
    if rescue {
        let graph = graph();
        let placement = Placement::single("cpu", graph.len());
        engine.set_fallback(Some(devices::fallback(graph, placement, cpu(), KV)));
    }
    Ok(engine)
}

/// Tokens of the prompt and of the answer.
const PROMPT: usize = 120;
const ANSWER: usize = 14;

/// The best token behind `tokens`. Every third time all logits are asked for.
fn choose(engine: &mut Engine, sequence: SequenceId, tokens: &[u32], nth: usize) -> Result<u32, Error> {
    let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
    let work = [Work { sequence, tokens, logits: LogitsFor::Best(best) }];
    let mut chosen = None;
    let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
        let ahead = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        let best = match output.logits() {
            crate::backend::Logits::Best(best) if !nth.is_multiple_of(3) => {
                best.logits.iter().copied().zip(best.ids.iter().copied()).max_by(ahead)
            }
            _ => output.all()?.iter().copied().zip(0..).max_by(ahead),
        };
        assert!(chosen.is_none(), "no token is told twice");
        chosen = best.map(|(_, id)| id);
        Ok(())
    };
    engine.forward(&work, &mut sink, None)?;
    Ok(chosen.expect("the last token has logits"))
}

/// Continues the prompt, with a fork beside it that lives for a while; calls `each` behind each token.
fn answer(engine: &mut Engine, prompt: &[u32], count: usize, mut each: impl FnMut(usize)) -> Result<Vec<u32>, Error> {
    let sequence = engine.create();
    let mut tokens = vec![choose(engine, sequence, prompt, 0)?];
    each(1);
    for nth in 1..count {
        if nth == 5 {
            let fork = engine.fork(sequence);
            choose(engine, fork, &text(9, 1), 1)?;
            engine.release(fork);
            each(nth);
        }
        tokens.push(choose(engine, sequence, &tokens[nth - 1..nth], nth)?);
        each(nth + 1);
    }
    engine.release(sequence);
    assert_eq!(engine.available_pages(), PAGES, "no page is lost");
    assert!(engine.sequences.is_empty(), "no sequence is left");
    Ok(tokens)
}

#[test]
fn an_answer_goes_on_wherever_a_device_fails() {
    let prompt = text(PROMPT, 3);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut failed_calls: Vec<Call> = Vec::new();
    for (number, placements) in PLACEMENTS.into_iter().enumerate() {
        let sound = Fault::at(usize::MAX);
        let mut engine_of = engine(&sound, placements, true).expect("stages");
        let builds = sound.calls();
        let (want, warnings) = listen(|| answer(&mut engine_of, &prompt, ANSWER, |_| ()).expect("no device fails"));
        assert_eq!(warnings, [""; 0], "nothing failed");
        let calls = sound.calls() - builds;
        // Five points for each of four placements, one in each fifth of the calls.
        for fifth in 0..5 {
            let call = builds + 1 + fifth * calls / 5 + (random.next_u64() as usize) % (calls / 5);
            let fault = Fault::at(call);
            let mut engine = engine(&fault, placements, true).expect("stages");
            // Tokens that there were before.
            let mut before = 0;
            let count = |told: usize| {
                if fault.failed().is_none() {
                    before = told;
                }
            };
            let (got, warnings) = listen(|| answer(&mut engine, &prompt, ANSWER, count).expect("the CPU takes over"));
            let what = format!("placement {number}, call {call}, {:?} behind {before} tokens", fault.failed());
            failed_calls.extend(fault.failed());
            assert_eq!(got.len(), ANSWER, "{what}");
            assert_eq!(got[..before], want[..before], "{what}: what was said before");
            let known: Vec<u32> = prompt.iter().chain(&got[..before]).copied().collect();
            let mut alone = engine_with(["cpu", "cpu"], &[cpu()], KvType::F16).expect("stages");
            let sequence = alone.create();
            let mut rest = vec![choose(&mut alone, sequence, &known, 0).expect("no device fails")];
            while rest.len() < ANSWER - before {
                let last = rest[rest.len() - 1];
                rest.push(choose(&mut alone, sequence, &[last], 1).expect("no device fails"));
            }
            assert_eq!(got[before..], rest[..ANSWER - before], "{what}: what the CPU says then");
            assert_eq!(warnings.len(), 1, "{what}: {warnings:?}");
            assert!(warnings[0].contains("going on with the CPU"), "{what}: {warnings:?}");
            assert_eq!(fault.device.alive(), 0, "{what}: its stages are gone");
        }
    }
    failed_calls.sort_unstable();
    failed_calls.dedup();
    println!("calls that failed: {failed_calls:?}");
}

#[test]
fn every_kind_of_call_may_fail() {
    let prompt = text(PROMPT, 3);
    for (placements, kind) in [
        (PLACEMENTS[0], Call::AllLogits),
        (PLACEMENTS[1], Call::CopyPage),
        (PLACEMENTS[2], Call::ExportPages),
        (PLACEMENTS[3], Call::ImportPages),
        (PLACEMENTS[3], Call::Forward),
    ] {
        // The first call of its kind.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&seen);
        let spy = HookedBackend::new("gpu", 1.02, move |call| {
            list.lock().expect("no test panics here").push(call);
            Ok(())
        });
        let backends: [Arc<dyn Backend>; 2] = [cpu(), Arc::new(spy)];
        let mut sound = engine_with(placements, &backends, KvType::F16).expect("stages");
        answer(&mut sound, &prompt, ANSWER, |_| ()).expect("no device fails");
        let call = seen.lock().expect("no test panics here").iter().position(|&call| call == kind);
        let call = call.unwrap_or_else(|| panic!("{kind:?} is never called")) + 1;
        for rescue in [true, false] {
            let fault = Fault::at(call);
            let mut engine = engine(&fault, placements, rescue).expect("stages");
            let (result, warnings) = listen(|| answer(&mut engine, &prompt, ANSWER, |_| ()));
            assert_eq!(fault.failed(), Some(kind));
            match rescue {
                true => {
                    assert_eq!((result.expect("the CPU takes over").len(), warnings.len()), (ANSWER, 1), "{kind:?}")
                }
                false => assert!(matches!(result, Err(Error::Executor(_))), "{kind:?}: nobody takes over"),
            }
        }
    }
}

#[test]
fn a_prompt_on_two_devices_survives_the_loss_of_one() {
    // In the middle of chunks that are worked on at the same time.
    let placement = "embed=cpu,0-1=gpu,2-=cpu,head=cpu";
    let prompt = text(5 * CHUNK, 3);
    let mut alone = engine_with(["cpu", "cpu"], &[cpu()], KvType::F16).expect("stages");
    let sequence = alone.create();
    let want = step(&mut alone, &[(sequence, &prompt)]).expect("no device fails");
    for chunk in 0..5 {
        let fault = Fault::at(2 + chunk);
        let mut engine = engine(&fault, [placement, placement], true).expect("stages");
        let sequence = engine.create();
        let got = step(&mut engine, &[(sequence, &prompt)]).expect("the CPU takes over");
        assert!(got == want, "chunk {chunk}");
        assert_eq!((engine.tokens(sequence).len(), fault.device.alive()), (prompt.len(), 0));
    }
}

#[test]
fn what_was_told_of_a_batch_is_not_told_again() {
    // Three sequences whose logits are asked for one after the other; the device fails at the second one.
    let prompts = [text(4 * CHUNK, 3), text(30, 5), text(9, 7)];
    let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
    let run = |engine: &mut Engine| {
        let sequences = prompts.each_ref().map(|_| engine.create());
        let mut told = Vec::new();
        let mut sink = |item: usize, token: usize, output: &mut Output<'_>| {
            told.push((item, token, output.all()?.to_vec()));
            Ok(())
        };
        let items = sequences.into_iter().zip(&prompts);
        let work: Vec<_> =
            items.map(|(sequence, tokens)| Work { sequence, tokens, logits: LogitsFor::Best(best) }).collect();
        engine.forward(&work, &mut sink, None).expect("the CPU takes over");
        told.sort_by_key(|(item, ..)| *item);
        told
    };
    let want = run(&mut engine_with(["cpu", "cpu"], &[cpu()], KvType::F16).expect("stages"));
    for placements in [["embed=cpu,0-1=cpu,2-=gpu,head=gpu"; 2], ["gpu", "cpu"]] {
        for nth in 0..3 {
            let asked = AtomicUsize::new(0);
            let device = HookedBackend::new("gpu", 1.0, move |call| {
                let fails = call == Call::AllLogits && asked.fetch_add(1, Ordering::SeqCst) >= nth;
                if fails { Err(BackendError::NoGpuSupport) } else { Ok(()) }
            });
            let backends: [Arc<dyn Backend>; 2] = [cpu(), Arc::new(device)];
            let mut engine = engine_with(placements, &backends, KvType::F16).expect("stages");
            let graph = graph();
            let placement = Placement::single("cpu", graph.len());
            engine.set_fallback(Some(devices::fallback(graph, placement, cpu(), KV)));
            let (got, warnings) = listen(|| run(&mut engine));
            assert!(got == want && warnings.len() == 1, "{placements:?}, output {nth}: {warnings:?}");
        }
    }
}

#[test]
fn a_device_that_cannot_be_built_leaves_nothing_behind() {
    for call in 1..=2 {
        let fault = Fault::at(call);
        let built = engine(&fault, PLACEMENTS[1], false);
        assert!(built.is_err() && fault.device.alive() == 0, "call {call}");
    }
}
