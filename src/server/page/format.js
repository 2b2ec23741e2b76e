// Numbers as people read them.

/** Tokens per second, or a dash. */
export function rate(value) {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 || value === 0 ? value.toFixed(0) : value.toFixed(1);
}

/** Seconds with a unit. */
export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** A number with a noun in the right number. */
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
