// Numbers as Python rounds and prints them, so that files equal those of dcls-tag.

/** Python's format(value, ".<digits>f"): exact, and ties go to the even digit; toFixed takes the larger one. */
export function fixed(value, digits) {
  const scaled = value * 10 ** digits;
  // only a multiple of 1 / 2^(digits + 1) can lie exactly between two decimals
  const isTie = Number.isInteger(value * 2 ** (digits + 1)) && Number.isInteger(2 * scaled) && !Number.isInteger(scaled);
  if (!isTie) return value.toFixed(digits);
  const below = Math.floor(scaled);
  return ((below % 2 === 0 ? below : below + 1) / 10 ** digits).toFixed(digits);
}

/** Python's round(value, digits). */
export const round = (value, digits) => Number(fixed(value, digits));

/** Python's repr(float) for what this page writes: 0.0 and 5.0 have a point. */
export const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : String(value));
