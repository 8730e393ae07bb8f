// The priority of an alert in; its burst of pulses, after the pattern of IEC 60601-1-8, on the loudspeaker out.

const PITCH_HZ = 440,
  HARMONICS = [1, 0.5, 0.35, 0.25, 0.15],
  RAMP_S = 0.02,
  LOUD = 0.25,
  BURST_S = 4;
const BURSTS = {
  high: { pulse_s: 0.13, starts_s: high(), again_s: 8 },
  medium: { pulse_s: 0.18, starts_s: [0, 0.38, 0.76], again_s: 15 },
  low: { pulse_s: 0.2, starts_s: [0, 0.42], again_s: Infinity },
};
const NEVER = { priority: null, at_s: -Infinity, heard: new Set() };
let context = null,
  rung = NEVER;

/** Ten pulses, three or two; a browser plays them only after its user has touched the page. */
export function ring(priority) {
  context ??= new AudioContext();
  if (isMute()) return void context.resume();
  const { pulse_s, starts_s } = BURSTS[priority];
  for (const start_s of starts_s) pulse(context.currentTime + 0.05 + start_s, pulse_s);
}

/** Whether the browser waits for a key or a click before it lets anything sound. */
export const isMute = () => context?.state === "suspended";

/** Call it now and then with the alerts that nobody has acknowledged or silenced: it rings for the most urgent, again and again. */
export function ringFor(alerts, now_s) {
  const priority = alerts[0]?.priority,
    urgent = alerts.filter((alert) => alert.priority === priority).map((alert) => alert.id);
  if (isMute()) context.resume();
  if (!BURSTS[priority]) rung = NEVER;
  else if (isDue(priority, urgent, now_s - rung.at_s)) sound(priority, urgent, now_s);
}

// Another alert of the same priority is told at once, but never into the burst before.
function isDue(priority, urgent, since_s) {
  if (priority !== rung.priority) return true;
  return since_s >= BURSTS[priority].again_s || (since_s >= BURST_S && urgent.some((id) => !rung.heard.has(id)));
}

function sound(priority, urgent, now_s) {
  ring(priority);
  if (!isMute()) rung = { priority, at_s: now_s, heard: new Set(urgent) };
}

// Three pulses and two, and after a pause the same again.
function high() {
  const half = [0, 0.22, 0.44, 0.84, 1.06];
  return [...half, ...half.map((s) => s + 1.9)];
}

function pulse(at_s, long_s) {
  const loud = context.createGain();
  loud.gain.setValueAtTime(0, at_s);
  loud.gain.linearRampToValueAtTime(LOUD, at_s + RAMP_S);
  loud.gain.setValueAtTime(LOUD, at_s + long_s - RAMP_S);
  loud.gain.linearRampToValueAtTime(0, at_s + long_s);
  loud.connect(context.destination);
  const voice = context.createOscillator(),
    imaginary = Float32Array.of(0, ...HARMONICS);
  voice.setPeriodicWave(context.createPeriodicWave(new Float32Array(imaginary.length), imaginary));
  voice.frequency.value = PITCH_HZ;
  voice.connect(loud);
  voice.start(at_s);
  voice.stop(at_s + long_s);
}
