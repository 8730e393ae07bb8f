// What a lead showed of late, and the room it has, in; the gain at which it fits, as a monitor chooses it by itself, out.

const HALVINGS = 3,
  FITS = 0.96,
  SPARE = 0.8,
  FEW = 3;

/** {up, down}: how many millivolts above and below its baseline a lead went, from one second to another of its signal. */
export function reach(signal, mv, from_s, to_s) {
  const up = [],
    down = [];
  for (let s = from_s; s < to_s; s++) {
    const [low, high] = extremes(signal, mv, s, Math.min(s + 1, to_s));
    up.push(high);
    down.push(-low);
  }
  return { up: nearlyHighest(up), down: nearlyHighest(down) };
}

/** The wanted one, or that halved as often as `reach` needs it in {up, down} millimetres of `room`. It turns larger only with room to spare. */
export function fitting(wanted, now, { up, down }, room) {
  const gains = Array.from({ length: HALVINGS + 1 }, (_, i) => wanted / 2 ** i);
  const share = (gain) => (gain > now ? SPARE : FITS);
  return gains.find((gain) => up * gain <= share(gain) * room.up && down * gain <= share(gain) * room.down) ?? gains[HALVINGS];
}

function extremes({ rate, wrap, first, end }, mv, from_s, to_s) {
  let low = 0,
    high = 0;
  const last = Math.min(Math.ceil(to_s * rate), end);
  for (let i = Math.max(Math.floor(from_s * rate), first); i < last; i++) {
    if (mv[i & wrap] < low) low = mv[i & wrap];
    if (mv[i & wrap] > high) high = mv[i & wrap];
  }
  return [low, high];
}

// One second with an artefact does not make all beats small.
function nearlyHighest(values) {
  const sorted = values.sort((a, b) => b - a);
  return sorted[sorted.length > FEW ? 1 : 0] ?? 0;
}
