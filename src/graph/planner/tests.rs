//! Plans of many made-up machines.

use proptest::prelude::*;

use super::*;

/// The cheapest of all choices that fit and whose blocks on a device are one run, tried one by one.
fn tried_one_by_one(machine: &Machine, workload: Workload) -> Option<Prediction> {
    let (layers, devices) = (machine.layers(), machine.devices.len());
    let choices = (0..devices.pow(layers as u32)).map(|mut code| {
        let digit = |_| {
            let device = code % devices;
            code /= devices;
            device
        };
        (0..layers).map(digit).collect::<Assignment>()
    });
    let is_contiguous = |assignment: &Assignment| {
        let blocks = &assignment[1..layers - 1];
        let starts = (0..blocks.len()).filter(|&i| i == 0 || blocks[i] != blocks[i - 1]).map(|i| blocks[i]);
        let mut starts: Vec<_> = starts.collect();
        let count = starts.len();
        starts.sort_unstable();
        starts.dedup();
        starts.len() == count
    };
    choices
        .filter(is_contiguous)
        .map(|assignment| predict(machine, workload, &Phases::same(assignment)))
        .filter(|prediction| prediction.fits(machine))
        .min_by(|a, b| a.request.total_cmp(&b.request))
}

/// The best single device on which the model fits.
fn best_single(machine: &Machine, workload: Workload) -> Option<f64> {
    let whole = |device| predict(machine, workload, &Phases::same(vec![device; machine.layers()]));
    let fitting = (0..machine.devices.len()).map(whole).filter(|prediction| prediction.fits(machine));
    fitting.map(|prediction| prediction.request).min_by(f64::total_cmp)
}

fn seconds() -> impl Strategy<Value = Seconds> {
    (1e-6..1e-3, 1e-5..1e-2).prop_map(|(prefill, decode)| Seconds { prefill, decode })
}

fn layer() -> impl Strategy<Value = LayerFacts> {
    (0u64..1000, 0u64..500, seconds()).prop_map(|(weights, cache, seconds)| LayerFacts { weights, cache, seconds })
}

fn link() -> impl Strategy<Value = Link> {
    let real = (1e-6..1e-3, 1e6..1e10).prop_map(|(latency, bytes_per_second)| Link { latency, bytes_per_second });
    prop_oneof![1 => Just(Link::NONE), 3 => real]
}

/// A machine of up to `devices` devices for a model of up to `blocks` blocks; the first device often holds everything.
fn machine(devices: usize, blocks: usize) -> impl Strategy<Value = Machine> {
    let device = move |index: usize, layers: usize| {
        let budget = prop_oneof![1 => Just(None), 4 => (0..1500 * layers as u64).prop_map(Some)];
        let layers = proptest::collection::vec(layer(), layers);
        (budget, layers, 0u64..200, 0u64..300, link()).prop_map(move |(budget, layers, stage_bytes, shared, link)| {
            let shared_bytes = shared.min(layers[0].weights).min(layers[layers.len() - 1].weights);
            let name = format!("device {index}");
            DeviceFacts { name, budget, shares_memory: index < 2, layers, stage_bytes, shared_bytes, link }
        })
    };
    (1..=devices, 3..=blocks + 2).prop_flat_map(move |(devices, layers)| {
        let devices: Vec<_> = (0..devices).map(|index| device(index, layers)).collect();
        (devices, 1u64..100_000, 1usize..600).prop_map(|(devices, hidden_bytes, chunk)| Machine {
            devices,
            memory: None,
            hidden_bytes,
            positions: 64,
            chunk,
        })
    })
}

fn workload() -> impl Strategy<Value = Workload> {
    (0usize..1000, 1usize..1000).prop_map(|(prompt, generated)| Workload { prompt, generated })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_plan_is_the_best_of_those_tried_one_by_one(machine in machine(3, 4), workload in workload()) {
        let best = tried_one_by_one(&machine, workload);
        match plan(&machine, workload, false) {
            Ok((phases, prediction)) => {
                prop_assert!(!phases.differ() && prediction.fits(&machine));
                prop_assert_eq!(&prediction, &predict(&machine, workload, &phases));
                let best = best.expect("a plan was found").request;
                prop_assert!(prediction.request <= best * (1.0 + 1e-6), "{} {best}", prediction.request);
            }
            Err(error) => prop_assert!(best.is_none(), "{error}"),
        }
    }

    #[test]
    fn a_plan_fits_and_is_no_slower_than_any_single_device(
        machine in machine(5, 30),
        workload in workload(),
        memory in proptest::option::of(0u64..40_000),
    ) {
        let machine = Machine { memory, ..machine };
        let single = best_single(&machine, workload);
        for may_differ in [false, true] {
            match plan(&machine, workload, may_differ) {
                Ok((phases, prediction)) => {
                    prop_assert!(prediction.fits(&machine));
                    prop_assert_eq!(&prediction, &predict(&machine, workload, &phases));
                    prop_assert!(single.is_none_or(|single| prediction.request <= single * (1.0 + 1e-6)));
                    let covered: usize = prediction.stages.iter().filter(|s| s.serves[1]).map(|s| s.layers.len()).sum();
                    prop_assert_eq!(covered, machine.layers());
                }
                Err(_) => prop_assert!(single.is_none()),
            }
        }
    }

    #[test]
    fn equal_devices_share_nothing_that_one_holds(machine in machine(4, 12), workload in workload()) {
        // All devices like the first, and crossings for nothing: any cut is as fast as none.
        let mut machine = machine;
        let first = DeviceFacts { link: Link::NONE, budget: None, ..machine.devices[0].clone() };
        for device in &mut machine.devices {
            *device = DeviceFacts { name: device.name.clone(), ..first.clone() };
        }
        let (phases, prediction) = plan(&machine, workload, true).expect("no budget, no limit");
        prop_assert!(!phases.differ());
        prop_assert_eq!(prediction.stages.len(), 1);
        // And with room for about half on each: one run of blocks on each of two or three devices, no more.
        let total = prediction.memory.iter().map(DeviceMemory::total).max().unwrap_or(0);
        let largest = first.layers.iter().map(|l| l.weights + l.cache).max().unwrap_or(0);
        for device in &mut machine.devices {
            device.budget = Some(total / 2 + largest + 2 * first.stage_bytes);
        }
        if machine.devices.len() >= 2 {
            let (_, prediction) = plan(&machine, workload, false).expect("two devices hold it");
            prop_assert!(prediction.stages.len() <= 2, "{:?}", prediction.stages);
        }
    }
}

/// A CPU and a GPU: seconds per block, head ten times as long, embedding for nothing.
fn cpu_and_gpu(blocks: usize, cpu: Seconds, gpu: Seconds, budget: Option<u64>) -> Machine {
    let layers = |block: Seconds| {
        let head = Seconds { prefill: 0.0, decode: 10.0 * block.decode };
        let mut layers = vec![LayerFacts { weights: 1000, ..LayerFacts::default() }];
        layers.extend(vec![LayerFacts { weights: 200, cache: 64, seconds: block }; blocks]);
        layers.push(LayerFacts { weights: 1000, cache: 0, seconds: head });
        layers
    };
    let device = |name: &str, budget, seconds, link| DeviceFacts {
        name: name.into(),
        budget,
        shares_memory: false,
        layers: layers(seconds),
        stage_bytes: 10,
        shared_bytes: 1000,
        link,
    };
    let bus = Link { latency: 20e-6, bytes_per_second: 10e9 };
    let devices = vec![device("cpu", None, cpu, Link::NONE), device("gpu", budget, gpu, bus)];
    Machine { devices, memory: None, hidden_bytes: 10_240, positions: 64, chunk: 512 }
}

#[test]
fn a_fast_gpu_has_all_that_fits() {
    let (cpu, gpu) = (Seconds { prefill: 8e-5, decode: 5e-4 }, Seconds { prefill: 2e-6, decode: 5e-5 });
    let plan_with = |budget| {
        let machine = cpu_and_gpu(30, cpu, gpu, budget);
        plan(&machine, Workload::default(), true).map(|(phases, _)| placement(&machine, &phases.decode))
    };
    assert_eq!(plan_with(None), Ok(Placement::single("gpu", 32)));
    // Embedding and head are one matrix there.
    let whole = 1000 + 30 * 264 + 10;
    assert_eq!(plan_with(Some(whole)), Ok(Placement::single("gpu", 32)));
    // The head is worth ten blocks and takes less than four.
    let text = |placement: Result<Placement, PlanError>| placement.expect("the CPU holds it").to_string();
    assert_eq!(text(plan_with(Some(whole - 1))), "embed=cpu,0=cpu,1-29=gpu,head=gpu");
    assert_eq!(text(plan_with(Some(1000 + 10 * 264 + 10))), "embed=cpu,0-19=cpu,20-29=gpu,head=gpu");
    // Without room for the head, three blocks.
    let three = plan_with(Some(900)).expect("the CPU holds it");
    assert_eq!(three.runs().iter().find(|(_, name)| name == "gpu").map(|(run, _)| run.len()), Some(3), "{three}");
    assert_eq!(plan_with(Some(100)), Ok(Placement::single("cpu", 32)));
}

#[test]
fn phases_differ_where_that_pays() {
    // An integrated GPU: as fast as the CPU for one token, twenty times as fast for a prompt.
    let (cpu, gpu) = (Seconds { prefill: 8e-5, decode: 5e-4 }, Seconds { prefill: 4e-6, decode: 5.5e-4 });
    let machine = cpu_and_gpu(30, cpu, gpu, None);
    let (phases, prediction) = plan(&machine, Workload { prompt: 512, generated: 512 }, true).expect("it fits");
    let names = |assignment| placement(&machine, assignment);
    assert!(names(&phases.prefill).names("gpu") && !names(&phases.decode).names("gpu"), "{phases:?}");
    assert!(prediction.handover > 0.0);
    // Not for a few tokens of a prompt, and not where the memory is short.
    let (phases, _) = plan(&machine, Workload { prompt: 8, generated: 512 }, true).expect("it fits");
    assert_eq!(names(&phases.prefill), Placement::single("cpu", 32));
    let mut shared = machine.clone();
    shared.devices.iter_mut().for_each(|device| device.shares_memory = true);
    let whole = predict(&machine, Workload::default(), &Phases::same(vec![0; 32])).memory[0].total();
    shared.memory = Some(2 * whole - 1);
    let (phases, _) = plan(&shared, Workload { prompt: 512, generated: 512 }, true).expect("one of them fits");
    assert!(!phases.differ(), "there is no room for the weights of both");
    let mut small = machine.clone();
    small.devices[1].budget = Some(100);
    let (phases, _) = plan(&small, Workload::default(), true).expect("it fits");
    assert_eq!(names(&phases.prefill), Placement::single("cpu", 32));
    assert_eq!(phases.prefill, phases.decode);
}

#[test]
fn what_fits_nowhere_is_said_with_numbers() {
    let mut machine = cpu_and_gpu(30, Seconds::default(), Seconds::default(), Some(64 << 20));
    machine.devices.iter_mut().flat_map(|d| &mut d.layers).for_each(|layer| layer.weights = 8 << 20);
    machine.devices[0].budget = Some(100 << 20);
    let message = plan(&machine, Workload::default(), true).expect_err("32 layers of 8 MiB").to_string();
    assert!(message.contains("cpu would hold 256.0 MiB") && message.contains("of 100.0 MiB"), "{message}");
    assert!(message.contains("gpu would hold") && message.contains("of 64.0 MiB; use"), "{message}");
    let seven = Machine { devices: vec![machine.devices[0].clone(); 7], ..machine };
    assert_eq!(plan(&seven, Workload::default(), false), Err(PlanError::TooManyDevices { found: 7 }));
}

#[test]
fn workloads_are_read_and_written() {
    assert_eq!("100:20".parse(), Ok(Workload { prompt: 100, generated: 20 }));
    assert_eq!(Workload::default().to_string().parse(), Ok(Workload::default()));
    for text in ["", "5", "0:0", "a:b", "-1:4"] {
        assert!(text.parse::<Workload>().is_err(), "{text:?}");
    }
}
