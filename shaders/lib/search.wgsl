// The search for the best logits by intervals that hold them.

struct Vocabulary {
    size: u32,
    // Groups of 16 rows, and how many of them a part has.
    groups: u32,
    part: u32,
    // Rows that are worth being multiplied exactly.
    few: u32,
}

// Candidates of a part, and what is known of its other rows.
struct Part {
    count: u32,
    // Their logits are below this.
    threshold: f32,
    // Bounds of what their weights add up to, relative to that of the threshold.
    least: f32,
    most: f32,
}

// Ends of the interval of a logit of which nothing is certain, and of one that is not looked for.
const ANYTHING = 3e38;
const NOTHING = -3.4e38;

// Where the candidates of a part are: it has room for SEGMENT. A part more, behind the others, has the ids that were
// asked for.
fn segment(output: u32, part: u32) -> u32 {
    return (output * (CHUNKS + 1u) + part) * SEGMENT;
}
