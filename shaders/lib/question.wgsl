// What is wanted of an output's logits.

// For each output: number of ids, temperature (bits; 0 for no weights), how many of the best logits are wanted, how far
// below the best a logit may be to be wanted (bits), then ids.
@group(0) @binding(2) var<storage, read> asked: array<u32>;

// Places of the numbers, and of the first id.
const TEMPERATURE = 1u;
const WANTED = 2u;
const MARGIN = 3u;
const IDS = 4u;
const QUESTION = IDS + ASKED;

fn asked_ids(output: u32) -> u32 {
    return min(asked[output * QUESTION], ASKED);
}

fn asked_id(output: u32, i: u32) -> u32 {
    return asked[output * QUESTION + IDS + i];
}
