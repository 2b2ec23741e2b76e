//! What bounds a test: the work of each device that takes part, and what that device can do at most, measured next to each
//! repetition.

use sterna_cpu::machine::median;

use super::Test;

/// What a backend does for one token.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The backend.
    pub(super) backend: String,
    /// Bytes that it must read for a generated token; `None` if that is not known.
    pub(super) bytes: Option<u64>,
    /// Its multiply-adds with ternary weights; `None` if they are not known.
    pub(super) macs: Option<u64>,
}

/// What a device can do at most, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bounds {
    /// Reads from memory, GB/s.
    pub(super) read: Option<f64>,
    /// Multiply-adds of int8 numbers, 10^9 per second.
    pub(super) int8: Option<f64>,
}

impl Bounds {
    /// Between two measurements.
    pub(super) fn middle(self, other: Bounds) -> Bounds {
        let middle = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| (a + b) / 2.0);
        Bounds { read: middle(self.read, other.read), int8: middle(self.int8, other.int8) }
    }

    /// How far two measurements are apart, as a share of their middle.
    fn apart(self, other: Bounds) -> f64 {
        let apart = |a: Option<f64>, b: Option<f64>| a.zip(b).map_or(0.0, |(a, b)| 2.0 * (a - b).abs() / (a + b));
        apart(self.read, other.read).max(apart(self.int8, other.int8))
    }
}

/// One repetition.
#[derive(Clone, Debug, Default)]
pub(super) struct Repetition {
    pub(super) tokens_per_second: f64,
    /// The bounds of each part, measured next to it.
    pub(super) bounds: Vec<Bounds>,
    /// How far those before and after it were apart, as a share.
    pub(super) drift: f64,
    /// Cores that other programs kept busy meanwhile, where the system tells.
    pub(super) others: Option<f64>,
    /// Joules, where they are measured.
    pub(super) joules: Option<f64>,
}

/// Bounds of which one is this much larger than the other are those of a machine that changed meanwhile.
const DRIFT: f64 = 0.1;

/// Other programs that keep more than this part of a core busy disturb.
const OTHERS: f64 = 0.1;

/// How often a repetition is made at most until nothing disturbs it.
pub(super) const TRIES: usize = 3;

impl Repetition {
    /// With the bounds that were measured before and after it.
    pub(super) fn between(self, before: Vec<Bounds>, after: Vec<Bounds>) -> Repetition {
        let pairs = || before.iter().zip(&after);
        Repetition {
            bounds: pairs().map(|(before, after)| before.middle(*after)).collect(),
            drift: pairs().map(|(before, after)| before.apart(*after)).fold(0.0, f64::max),
            ..self
        }
    }

    /// Whether the machine was the same before and after it, and did nothing else.
    pub(super) fn is_steady(&self) -> bool {
        self.drift <= DRIFT && self.others.unwrap_or(0.0) <= OTHERS
    }

    /// The one of two that was disturbed less.
    pub(super) fn steadier(self, other: Repetition) -> Repetition {
        let disturbance = |repetition: &Repetition| repetition.drift + repetition.others.unwrap_or(0.0);
        if disturbance(&other) < disturbance(&self) { other } else { self }
    }
}

/// What a part waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Read,
    Int8,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Read => "read",
            Resource::Int8 => "int8",
        }
    }

    fn work(self, part: &Part) -> Option<u64> {
        match self {
            Resource::Read => part.bytes,
            Resource::Int8 => part.macs,
        }
    }

    fn bound(self, bounds: Bounds) -> Option<f64> {
        match self {
            Resource::Read => bounds.read,
            Resource::Int8 => bounds.int8,
        }
    }

    /// Seconds of a part's work for a token at its bound.
    fn seconds(self, part: &Part, bounds: Bounds) -> Option<f64> {
        match self.work(part)? {
            0 => Some(0.0),
            work => Some(work as f64 / 1e9 / self.bound(bounds)?),
        }
    }
}

/// The limit of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    /// `read`, `int8`, or `mixed` if it is not the same for all parts.
    pub(super) name: &'static str,
    /// GB/s or 10^9 multiply-adds per second; of several devices, all work over the time that it takes at the limits of each.
    pub(super) rate: Option<f64>,
    /// The time at the limits over the time that was taken.
    pub(super) share: Option<f64>,
}

/// What bounds a test of these parts, and how near repetitions came to it.
pub(super) fn limit(test: Test, parts: &[Part], repetitions: &[Repetition]) -> Limit {
    let resources: Vec<Resource> = (0..parts.len()).map(|index| resource(test, parts, repetitions, index)).collect();
    let at_work = parts.iter().zip(&resources).filter(|(part, resource)| resource.work(part) != Some(0));
    let mut names: Vec<&str> = at_work.map(|(_, resource)| resource.name()).collect();
    names.dedup();
    let name = if let [name] = names[..] { name } else { "mixed" };
    let rates = repetitions.iter().filter_map(|repetition| rate(&resources, parts, repetition));
    let shares = repetitions.iter().filter_map(|r| Some(r.tokens_per_second * seconds(&resources, parts, r)?));
    let rate = if name == "mixed" { None } else { middle(rates.collect()) };
    Limit { name, rate, share: middle(shares.collect()) }
}

/// What takes a part longer: of a prompt, always its multiply-adds.
fn resource(test: Test, parts: &[Part], repetitions: &[Repetition], index: usize) -> Resource {
    let of = |resource: Resource| {
        let seconds = |repetition: &Repetition| resource.seconds(&parts[index], *repetition.bounds.get(index)?);
        middle(repetitions.iter().filter_map(seconds).collect())
    };
    match test {
        Test::Prompt(_) => Resource::Int8,
        Test::Generate(_) => match of(Resource::Int8).zip(of(Resource::Read)) {
            Some((int8, read)) if int8 > read => Resource::Int8,
            _ => Resource::Read,
        },
    }
}

/// Seconds that all parts take for a token at their bounds, one after the other.
fn seconds(resources: &[Resource], parts: &[Part], repetition: &Repetition) -> Option<f64> {
    let parts = resources.iter().zip(parts).zip(&repetition.bounds);
    parts.map(|((resource, part), bounds)| resource.seconds(part, *bounds)).sum()
}

/// The rate of all parts at their bounds. That of a single one is known even if its work is not.
fn rate(resources: &[Resource], parts: &[Part], repetition: &Repetition) -> Option<f64> {
    if let ([resource], [bounds]) = (resources, &repetition.bounds[..]) {
        return resource.bound(*bounds);
    }
    let work: u64 = resources.iter().zip(parts).map(|(resource, part)| resource.work(part)).sum::<Option<u64>>()?;
    let seconds = seconds(resources, parts, repetition)?;
    (seconds > 0.0).then(|| work as f64 / 1e9 / seconds)
}

fn middle(values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

/// Bounds this much apart belong to different states of the machine.
const STATES_APART: f64 = 1.3;

/// Groups the repetitions by the state that the machine was in: each big step between neighbouring bounds separates two states.
/// Their results are not averaged.
pub(super) fn by_state(parts: &[Part], mut repetitions: Vec<Repetition>) -> Vec<Vec<Repetition>> {
    repetitions.sort_by(|a, b| state(parts, a).total_cmp(&state(parts, b)));
    let is_same = |a: &Repetition, b: &Repetition| {
        let (a, b) = (state(parts, a), state(parts, b));
        a <= 0.0 || b / a < STATES_APART
    };
    repetitions.chunk_by(is_same).map(<[Repetition]>::to_vec).collect()
}

/// The bound that tells states of the machine apart: that of memory, where it was measured.
fn state(parts: &[Part], repetition: &Repetition) -> f64 {
    let of = |resource: Resource| rate(&vec![resource; parts.len()], parts, repetition);
    of(Resource::Read).or_else(|| of(Resource::Int8)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(backend: &str, bytes: u64, macs: u64) -> Part {
        Part { backend: backend.into(), bytes: Some(bytes), macs: Some(macs) }
    }

    fn reads(bounds: &[f64]) -> Vec<Repetition> {
        let repetition = |&read: &f64| Repetition {
            tokens_per_second: read,
            bounds: vec![Bounds { read: Some(read), int8: None }],
            ..Repetition::default()
        };
        bounds.iter().map(repetition).collect()
    }

    #[test]
    fn states_are_kept_apart() {
        let cpu = [part("cpu", 1_000_000, 1)];
        let states = by_state(&cpu, reads(&[45.0, 76.0, 46.0, 75.0, 47.0]));
        assert_eq!(states.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(by_state(&cpu, reads(&[45.0, 50.0, 55.0, 58.0])).len(), 1);
        assert_eq!(by_state(&cpu, reads(&[45.0])).len(), 1);
        let states = by_state(&cpu, reads(&[20.0, 76.0, 44.0, 45.0, 75.0, 21.0, 77.0]));
        assert_eq!(states.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 3]);
        let unknown = Repetition { tokens_per_second: 1.0, bounds: vec![Bounds::default()], ..Repetition::default() };
        assert_eq!(by_state(&cpu, vec![unknown; 3]).len(), 1);
    }

    #[test]
    fn what_disturbs_a_repetition_is_seen() {
        let bounds = |read: f64| vec![Bounds { read: Some(read), int8: None }, Bounds::default()];
        let with = |before: f64, after: f64, others: Option<f64>| {
            Repetition { others, ..Repetition::default() }.between(bounds(before), bounds(after))
        };
        let steady = with(30.0, 32.0, Some(0.02));
        assert!(steady.is_steady() && with(30.0, 32.0, None).is_steady());
        assert_eq!((steady.bounds[0].read, steady.bounds[1]), (Some(31.0), Bounds::default()));
        let (changed, busy) = (with(30.0, 45.0, None), with(30.0, 30.0, Some(0.9)));
        assert!((changed.drift - 0.4).abs() < 1e-12 && !changed.is_steady() && !busy.is_steady());
        assert_eq!(busy.clone().steadier(changed.clone()).drift, changed.drift);
        assert_eq!(changed.steadier(busy).steadier(steady).others, Some(0.02));
    }

    #[test]
    fn one_device_is_compared_with_its_bound() {
        let cpu = [part("cpu", 500_000_000, 2_000_000_000)];
        let mut repetition = reads(&[40.0]);
        // Half a gigabyte at 40 GB/s takes 12.5 ms.
        repetition[0].tokens_per_second = 60.0;
        assert_eq!(
            limit(Test::Generate(8), &cpu, &repetition),
            Limit { name: "read", rate: Some(40.0), share: Some(0.75) }
        );
        // At 100 G multiply-adds per second, they take longer: 20 ms.
        repetition[0].bounds[0].int8 = Some(100.0);
        repetition[0].tokens_per_second = 40.0;
        assert_eq!(
            limit(Test::Generate(8), &cpu, &repetition),
            Limit { name: "int8", rate: Some(100.0), share: Some(0.8) }
        );
        assert_eq!(limit(Test::Prompt(8), &cpu, &repetition), limit(Test::Generate(8), &cpu, &repetition));
        // Of a program that does not say what it reads, the bound is known but not the share.
        let unknown = [Part { bytes: None, ..cpu[0].clone() }];
        let of_unknown = limit(Test::Generate(8), &unknown, &reads(&[40.0]));
        assert_eq!(of_unknown, Limit { name: "read", rate: Some(40.0), share: None });
    }

    #[test]
    fn times_of_several_devices_are_added() {
        // 0.2 GB at 20 GB/s and 0.8 GB at 400 GB/s: 10 and 2 ms.
        let parts = [part("cpu", 200_000_000, 100_000_000), part("gpu", 800_000_000, 400_000_000)];
        let bounds = |read: f64, int8: Option<f64>| Bounds { read: Some(read), int8 };
        let at = vec![bounds(20.0, None), bounds(400.0, None)];
        let mut repetition = Repetition { tokens_per_second: 50.0, bounds: at, ..Repetition::default() };
        let near = |got: Option<f64>, want: f64| assert!((got.expect("it is known") - want).abs() < 1e-9, "{got:?}");
        let read = limit(Test::Generate(8), &parts, std::slice::from_ref(&repetition));
        assert_eq!(read.name, "read");
        near(read.rate, 1.0 / 0.012);
        near(read.share, 0.6);
        // A GPU that multiplies slowly: its 0.4 G take 8 ms at 50 G per second, longer than its reads.
        repetition.bounds[1].int8 = Some(50.0);
        repetition.bounds[0].int8 = Some(1000.0);
        let mixed = limit(Test::Generate(8), &parts, std::slice::from_ref(&repetition));
        assert_eq!((mixed.name, mixed.rate), ("mixed", None));
        near(mixed.share, 50.0 * 0.018);
        // A prompt waits for multiplications on both.
        let prompt = limit(Test::Prompt(8), &parts, std::slice::from_ref(&repetition));
        assert_eq!(prompt.name, "int8");
        near(prompt.share, 50.0 * 0.0081);
        // A device that only looks up the embedding has nothing to wait for, measured or not.
        let parts = [part("cpu", 0, 0), part("gpu", 800_000_000, 400_000_000)];
        repetition.bounds = vec![Bounds::default(), bounds(400.0, None)];
        let alone = limit(Test::Generate(8), &parts, std::slice::from_ref(&repetition));
        assert_eq!(alone.name, "read");
        near(alone.rate, 400.0);
        near(alone.share, 0.1);
        // What is not known of one is not known of all.
        repetition.bounds[1] = Bounds::default();
        let unknown = limit(Test::Generate(8), &parts, std::slice::from_ref(&repetition));
        assert_eq!((unknown.rate, unknown.share), (None, None));
        assert_eq!(by_state(&parts, vec![repetition; 2]).len(), 1);
    }
}
