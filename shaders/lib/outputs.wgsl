// The outputs that a dispatch is for.

struct Outputs {
    // The first of their inputs, and the one behind the last.
    first: u32,
    end: u32,
}

@group(0) @binding(1) var<uniform> outputs: Outputs;
