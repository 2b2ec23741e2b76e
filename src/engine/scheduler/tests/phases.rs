//! Placements of several devices, the same for prompts and generated tokens or not, give the bits of one.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;

fn run(placements: [&str; 2]) -> Vec<Vec<f32>> {
    let backends = [cpu(), twin("a"), twin("b")];
    let mut engine = engine_with(placements, &backends, KvType::F16).expect("stages");
    conversation(&mut engine).expect("no device fails")
}

#[test]
fn the_cpu_gives_the_same_bits_however_it_is_cut() {
    let want = run(["cpu", "cpu"]);
    for placement in [
        "embed=cpu,0-1=a,2-=cpu,head=cpu",
        "embed=a,0=cpu,1=a,2=cpu,3=a,head=cpu",
        "embed=cpu,0=a,1=b,2=a,3=b,head=a",
        "a:1,b:2",
    ] {
        assert!(run([placement, placement]) == want, "{placement}");
    }
}

#[test]
fn phases_on_different_devices_give_the_same_bits() {
    let want = run(["cpu", "cpu"]);
    for placements in [
        ["a", "cpu"],
        ["cpu", "a"],
        ["embed=cpu,0-1=a,2-=cpu,head=cpu", "cpu"],
        ["a", "embed=a,0-1=cpu,2-=a,head=b"],
        ["embed=a,0-1=b,2-=cpu,head=cpu", "embed=cpu,0=a,1-2=b,3=a,head=a"],
        // No block has another device: there is no cache to hand over.
        ["embed=a,0-=cpu,head=a", "cpu"],
    ] {
        assert!(run(placements) == want, "{placements:?}");
    }
}

#[test]
fn the_cache_is_handed_over_once_for_a_prompt() {
    // Pages that came to the device of generated tokens.
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let decoder = HookedBackend::new("a", 1.0, move |call| {
        seen.lock().expect("no test panics here").push(call);
        Ok(())
    });
    let backends: [Arc<dyn Backend>; 2] = [cpu(), Arc::new(decoder)];
    let mut engine = engine_with(["cpu", "a"], &backends, KvType::F16).expect("stages");
    let sequence = engine.create();
    let count = |call| calls.lock().expect("no test panics here").iter().filter(|&&seen| seen == call).count();
    let imports = || count(crate::backend::hooked::Call::ImportPages);
    let exports = || count(crate::backend::hooked::Call::ExportPages);
    step(&mut engine, &[(sequence, &text(120, 3))]).expect("no device fails");
    assert_eq!(imports(), 0, "the prompt alone");
    for token in 0..5 {
        step(&mut engine, &[(sequence, &[token])]).expect("no device fails");
    }
    assert_eq!((imports(), exports()), (1, 0), "once for all tokens of the answer");
    step(&mut engine, &[(sequence, &text(30, 4))]).expect("no device fails");
    assert_eq!((imports(), exports()), (1, 1), "the answer goes back for the next prompt");
    step(&mut engine, &[(sequence, &[1])]).expect("no device fails");
    assert_eq!((imports(), exports()), (2, 1));
    // A few tokens are no prompt.
    step(&mut engine, &[(sequence, &[1, 2, 3])]).expect("no device fails");
    assert_eq!((imports(), exports()), (2, 1));
}

#[test]
fn codes_are_not_handed_over() {
    let backends = [cpu(), twin("a")];
    let error = engine_with(["cpu", "a"], &backends, KvType::Int8).expect_err("int8").to_string();
    assert!(error.contains("int8") && error.contains("--kv f16"), "{error}");
    let mixed = "embed=cpu,0-1=a,2-=cpu,head=cpu";
    assert!(engine_with([mixed, mixed], &backends, KvType::Int8).is_ok(), "one placement is enough");
}

/// Two stages that wait for each other: the second one, in its first pass, until the first one is in its second pass.
#[derive(Default)]
struct Meeting {
    passes: Mutex<[usize; 2]>,
    changed: Condvar,
}

impl Meeting {
    fn enter(&self, stage: usize) -> Result<(), BackendError> {
        let mut passes = self.passes.lock().expect("no test panics here");
        passes[stage] += 1;
        self.changed.notify_all();
        if passes[stage] == 2 - stage {
            let other_is_there = |passes: &mut [usize; 2]| passes[1 - stage] < 1 + stage;
            let patience = Duration::from_secs(60);
            let (_passes, waited) =
                self.changed.wait_timeout_while(passes, patience, other_is_there).expect("no test panics here");
            if waited.timed_out() {
                return Err(BackendError::NoGpuSupport);
            }
        }
        Ok(())
    }
}

#[test]
fn chunks_of_a_prompt_are_on_two_devices_at_the_same_time() {
    let meeting = Arc::new(Meeting::default());
    let device = |name, stage| -> Arc<dyn Backend> {
        let meeting = Arc::clone(&meeting);
        Arc::new(HookedBackend::new(name, 1.0, move |call| match call {
            crate::backend::hooked::Call::Forward => meeting.enter(stage),
            _ => Ok(()),
        }))
    };
    let placement = "embed=a,0-1=a,2-=b,head=b";
    let mut engine =
        engine_with([placement, placement], &[device("a", 0), device("b", 1)], KvType::F16).expect("stages");
    let prompt = text(4 * CHUNK + 7, 3);
    let sequence = engine.create();
    let got = step(&mut engine, &[(sequence, &prompt)]).expect("the stages meet");
    assert_eq!(*meeting.passes.lock().expect("no test panics here"), [5, 5]);
    let mut alone = engine_with(["cpu", "cpu"], &[cpu()], KvType::F16).expect("stages");
    let sequence = alone.create();
    assert!(got == step(&mut alone, &[(sequence, &prompt)]).expect("no device fails"), "the same bits");
}
