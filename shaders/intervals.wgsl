// #use outputs, rounded, question, search, dot, reduce
// Where the logits lie: int8 rows times up to TOKENS inputs of 16 bits, exactly, and how far that can be from the logit.
// One workgroup per group of 16 rows. Tiles of 4 columns are laid out as those of ternary matrices are: four threads read
// 64 bytes, four rows each.

struct Copy {
    // Groups of 16 rows in this buffer, and the number of the first.
    groups: u32,
    first_group: u32,
    // Tiles of 4 columns.
    tiles: u32,
    vocab: u32,
}

// Of four rows: scales, and bounds of ‖e‖ (below 0 where there is none), max |e| and ‖ŵ‖.
struct Bounds {
    scale: vec4<f32>,
    error: vec4<f32>,
    worst: vec4<f32>,
    norm: vec4<f32>,
}

@group(0) @binding(0) var<uniform> matrix: Copy;
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> bounds: array<Bounds>;
@group(0) @binding(5) var<storage, read> planes: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> rounded: array<Rounded>;
// Lower ends of four rows, then their upper ends: [output, rows / 4, 2].
@group(0) @binding(7) var<storage, read_write> intervals: array<vec4<f32>>;
// The largest lower end of each group, [output, group].
@group(0) @binding(8) var<storage, read_write> tops: array<f32>;

// Bits for the rows of the group that were asked for: they are known anyway.
var<workgroup> known: array<atomic<u32>, TOKENS>;
var<workgroup> quad_tops: array<f32, TOKENS * 4u>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) place: vec3<u32>,
    @builtin(num_workgroups) places: vec3<u32>,
    thread: Thread,
) {
    let group = place.y * places.x + place.x;
    if group >= matrix.groups {
        return;
    }
    let id = thread_id(thread);
    let group_of_all = matrix.first_group + group;
    let groups_of_all = (matrix.vocab + 15u) / 16u;
    let first = outputs.first + place.z * TOKENS;
    if id < TOKENS {
        atomicStore(&known[id], 0u);
    }
    workgroupBarrier();
    for (var token = 0u; token < TOKENS; token++) {
        let output = place.z * TOKENS + token;
        if first + token < outputs.end && id < asked_ids(output) {
            let row = asked_id(output, id) - group_of_all * 16u;
            if row < 16u {
                atomicOr(&known[token], 1u << row);
            }
        }
    }

    // Inputs beyond the last are there, but nobody wants their products.
    var upper: array<vec4<i32>, TOKENS>;
    var lower: array<vec4<i32>, TOKENS>;
    let start = group * matrix.tiles * 4u + id % 4u;
    for (var tile = id / 4u; tile < matrix.tiles; tile += WG / 4u) {
        let words = values[start + tile * 4u];
        for (var token = 0u; token < TOKENS; token++) {
            let x = planes[(first + token) * HIDDEN_TILES * 4u + tile];
            upper[token] += dot_signed(words, x.x);
            lower[token] += dot_signed(words, x.y);
        }
    }
    for (var token = 0u; token < TOKENS; token++) {
        let upper_sum = sum_of_quads(thread, upper[token]);
        let lower_sum = sum_of_quads(thread, lower[token]);
        if id < 4u {
            let row = bounds[group * 4u + id];
            let x = rounded[first + token];
            let by = row.scale * x.scale;
            let a = vec4<f32>(upper_sum) * 256.0;
            let b = vec4<f32>(lower_sum);
            let middle = (a + b) * by;
            // The second term is for the rounding of the middle and of the ends, the factor for that of the first.
            let reach = (row.error * x.error + row.worst * x.worst + row.norm * x.norm + x.tiny) * 1.00001
                + (abs(a) + abs(b)) * by * (1.0 / 1048576.0);
            let certain = (row.error >= vec4<f32>(0.0)) & vec4<bool>(x.certain != 0u);
            var low = select(vec4<f32>(-ANYTHING), middle - reach, certain);
            var high = select(vec4<f32>(ANYTHING), middle + reach, certain);
            let rows = vec4<u32>(id * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
            let is_known = ((vec4<u32>(atomicLoad(&known[token])) >> rows) & vec4<u32>(1u)) != vec4<u32>(0u);
            let absent = is_known | (vec4<u32>(group_of_all * 16u) + rows >= vec4<u32>(matrix.vocab));
            low = select(low, vec4<f32>(NOTHING), absent);
            high = select(high, vec4<f32>(NOTHING), absent);
            quad_tops[token * 4u + id] = max(max(low.x, low.y), max(low.z, low.w));
            if first + token < outputs.end {
                let quad = ((place.z * TOKENS + token) * groups_of_all + group_of_all) * 4u + id;
                intervals[quad * 2u] = low;
                intervals[quad * 2u + 1u] = high;
            }
        }
    }
    workgroupBarrier();
    if id < TOKENS && first + id < outputs.end {
        let quad = id * 4u;
        tops[(place.z * TOKENS + id) * groups_of_all + group_of_all] =
            max(max(quad_tops[quad], quad_tops[quad + 1u]), max(quad_tops[quad + 2u], quad_tops[quad + 3u]));
    }
}
