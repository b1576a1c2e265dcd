/**
 * A session against the model agent over a bad network, in virtual time: everything that happens
 * follows from one seed. `runSchedule` plays one run and throws when a promise of the session's is
 * broken; the message names the seed.
 */
import { Session, type Instant, type Output } from '../../src/protocol/session.ts';
import { MAX_PROBES, SMALL_PAYLOAD_BYTES } from '../../src/protocol/constants.ts';
import { AGENT_TICK_MS, MODERN_AGENT, ModelAgent, type AgentTraits } from './model-agent.ts';
import { naiveDecode, naiveEncode } from './naive-codec.ts';
import { SeededRandom } from './random.ts';

export interface Weather {
  /** Chances per message. */
  readonly drop: number;
  readonly duplicate: number;
  readonly corrupt: number;
  readonly delayMs: number;
  readonly jitterMs: number;
  /** Whether jitter may change the order. */
  readonly reorders: boolean;
  /** Mean time between cuts of the socket; 0 for none. */
  readonly cutEveryMs: number;
  /** Close code of a cut. */
  readonly closeCode: number | undefined;
  /** Longest time without a socket. */
  readonly downMs: number;
  /** Whether the destination stops reading now and then. */
  readonly stalls: boolean;
  /** How long all this lasts; then the link is perfect. */
  readonly untilMs: number;
}

export interface Plan {
  readonly weather: Weather;
  readonly traits: AgentTraits;
  readonly toAgentBytes: number;
  readonly toClientBytes: number;
  /** Bytes come all at once, or a few at a time. */
  readonly isInteractive: boolean;
  readonly maxPayloadBytes: number;
  readonly maxInFlightBytes: number;
  readonly maxInFlightMessages: number;
  readonly messagesPerSecond: number;
}

export interface Result {
  readonly seed: number;
  readonly plan: Plan;
  /** Events handled. */
  readonly steps: number;
  readonly virtualMs: number;
  readonly sockets: number;
  readonly dropped: number;
  /** Stream messages sent by the client, resends included, and without them. */
  readonly transmitted: number;
  readonly distinct: number;
}

export class ScheduleFailure extends Error {
  constructor(seed: number, what: string, plan: Plan) {
    super(`seed ${seed}: ${what}\n${JSON.stringify(plan)}`);
    this.name = 'ScheduleFailure';
  }
}

/** No run takes longer in virtual time once the weather is good. */
const PATIENCE_MS = 3_600_000;
const MAX_STEPS = 400_000;
const WALL_EPOCH = 1_700_000_000_000;

const CALM: Weather = {
  drop: 0,
  duplicate: 0,
  corrupt: 0,
  delayMs: 5,
  jitterMs: 0,
  reorders: false,
  cutEveryMs: 0,
  closeCode: undefined,
  downMs: 0,
  stalls: false,
  untilMs: 0,
};

export function planFor(seed: number): Plan {
  const random = new SeededRandom(seed ^ 0x5eed);
  const kind = random.pick(['modern', 'modern', 'modern', 'deaf', 'hasty'] as const);
  // Individual losses on a live socket do not happen to real agents; agents that ignore duplicates
  // are told apart from lost messages by just that.
  const isLossy = kind === 'modern' && random.chance(0.6);
  const untilMs = random.between(500, 20_000);
  const weather: Weather = {
    drop: isLossy ? random.next() * 0.3 : 0,
    duplicate: random.chance(0.5) ? random.next() * 0.3 : 0,
    corrupt: random.chance(0.2) ? 0.003 : 0,
    delayMs: random.pick([0, 1, 5, 20, 80, 200]),
    jitterMs: random.pick([0, 0, 5, 50, 300]),
    reorders: kind === 'modern' && random.chance(0.5),
    cutEveryMs: random.chance(0.7) ? random.between(100, 5_000) : 0,
    closeCode: random.pick([1000, 1001, 1006, undefined]),
    downMs: random.pick([0, 50, 1_000, 10_000]),
    stalls: random.chance(0.3),
    untilMs,
  };
  const traits: AgentTraits = {
    ...MODERN_AGENT,
    dialMs: random.pick([0, 0, 30, 900, 6_000]),
    repeatsRequest: random.chance(0.2),
    earlyCapacity: random.pick([100_000, 100_000, 20]),
    ...(kind === 'deaf' && {
      agentVersion: '3.1.1188.0',
      ignoresDuplicates: true,
      earlyCapacity: 100_000,
    }),
    ...(kind === 'hasty' && {
      agentVersion: '3.0.529.0',
      ignoresDuplicates: true,
      dropsEarlyData: true,
      dialMs: random.between(0, 900),
      earlyCapacity: 100_000,
    }),
  };
  return {
    weather,
    traits,
    toAgentBytes: random.pick([0, 1, 3_000, 40_000, 200_000]),
    // Without any output it is not known that such an agent has reached its port.
    toClientBytes: random.pick([kind === 'modern' ? 0 : 20, 1, 3_000, 20_000, 60_000]),
    isInteractive: random.chance(0.4),
    maxPayloadBytes: random.pick([100, 1024, 5_000, 16_384]),
    maxInFlightBytes: random.pick([2_000, 20_000, 65_536, 4 * 1024 * 1024]),
    maxInFlightMessages: random.pick([2, 10, 100, 4_000]),
    messagesPerSecond: random.pick([20, 200, 950, Number.POSITIVE_INFINITY]),
  };
}

export function runSchedule(seed: number, plan: Plan = planFor(seed)): Result {
  return new Simulation(seed, plan).run();
}

interface Event {
  readonly at: number;
  readonly order: number;
  readonly act: () => void;
}

interface Flight {
  readonly socket: number;
  isLost: boolean;
}

class Simulation {
  readonly #seed: number;
  readonly #plan: Plan;
  readonly #random: SeededRandom;
  readonly #session: Session;
  readonly #agent: ModelAgent;
  readonly #events = new EventQueue();
  readonly #toAgent: Uint8Array;
  readonly #toClient: Uint8Array;
  /** Messages on their way to the agent, by the socket they were written to. */
  #flights: Flight[] = [];
  #now = 0;
  #steps = 0;
  #socket = 0;
  #isSocketUp = false;
  #lastArrival = { client: 0, agent: 0 };
  #offered = 0;
  #taken = 0;
  #produced = 0;
  #verifiedAtAgent = 0;
  #delivered = 0;
  #armedAt: number | undefined;
  #dropped = 0;
  #corrupted = 0;
  #transmitted = 0;
  readonly #distinct = new Set<string>();
  readonly #sendTimes: number[] = [];
  #isOpen = false;
  #hasTerminated = false;
  #end: Extract<Output, { kind: 'closed' }> | undefined;

  constructor(seed: number, plan: Plan) {
    this.#seed = seed;
    this.#plan = plan;
    this.#random = new SeededRandom(seed);
    this.#toAgent = pattern(plan.toAgentBytes, seed);
    this.#toClient = pattern(plan.toClientBytes, seed + 1);
    this.#session = new Session({
      clientId: '51103438-0f13-4a5d-917d-6d2fe721e5b9',
      clientVersion: '1.2.764.0',
      maxPayloadBytes: plan.maxPayloadBytes,
      maxInFlightBytes: plan.maxInFlightBytes,
      maxInFlightMessages: plan.maxInFlightMessages,
      messagesPerSecond: plan.messagesPerSecond,
      randomBytes: (size) => this.#random.bytes(size),
    });
    this.#agent = new ModelAgent(plan.traits, (frame) => {
      this.#fly('client', frame);
    });
  }

  run(): Result {
    this.#agent.start(0);
    this.#at(this.#random.between(0, 50), () => {
      this.#open();
    });
    this.#every(AGENT_TICK_MS, () => {
      this.#agent.tick(this.#now);
    });
    this.#offer();
    this.#produce();
    this.#scheduleTrouble();
    this.#runUntil(() => this.#isComplete, 'the streams to be complete');
    this.#apply(this.#session.terminate(this.#instant));
    this.#runUntil(() => this.#hasTerminated, 'the flag to be acknowledged');
    const closed = naiveEncode({ messageType: 'channel_closed', payload: '{"Output":""}' });
    this.#apply(this.#session.receive(closed, this.#instant));
    if (this.#end?.incomplete !== false) this.#fail('the end is not clean');
    return {
      seed: this.#seed,
      plan: this.#plan,
      steps: this.#steps,
      virtualMs: this.#now,
      sockets: this.#socket,
      dropped: this.#dropped,
      transmitted: this.#transmitted,
      distinct: this.#distinct.size,
    };
  }

  get #instant(): Instant {
    return { now: this.#now, wallNow: WALL_EPOCH + this.#now };
  }

  get #weather(): Weather {
    return this.#now < this.#plan.weather.untilMs ? this.#plan.weather : CALM;
  }

  get #isComplete(): boolean {
    return (
      this.#isOpen &&
      this.#isSocketUp &&
      this.#now >= this.#plan.weather.untilMs &&
      this.#verifiedAtAgent === this.#toAgent.length &&
      this.#delivered === this.#toClient.length &&
      this.#agent.unackedMessages === 0 &&
      (this.#plan.traits.ignoresDuplicates || this.#session.unackedMessages === 0)
    );
  }

  #runUntil(isDone: () => boolean, what: string): void {
    const deadline = Math.max(this.#now, this.#plan.weather.untilMs) + PATIENCE_MS;
    while (!isDone()) {
      const event = this.#events.take();
      if (event === undefined) this.#fail(`nothing happens any more; waited for ${what}`);
      this.#steps += 1;
      this.#now = event.at;
      if (this.#now > deadline || this.#steps > MAX_STEPS) {
        this.#fail(
          `waited in vain for ${what}: ${this.#verifiedAtAgent} of ${this.#toAgent.length} arrived, ` +
            `${this.#delivered} of ${this.#toClient.length} delivered, ` +
            `${this.#session.unackedMessages} unacknowledged here, ${this.#agent.unackedMessages} there`,
        );
      }
      event.act();
      this.#verifyAtAgent();
      this.#pull();
      this.#checkBounds();
      this.#arm();
    }
  }

  // ---- the client's driver ----------------------------------------------------------------------

  #apply(outputs: readonly Output[]): void {
    for (const output of outputs) {
      switch (output.kind) {
        case 'transmit':
          if (!this.#isSocketUp) this.#fail('transmits without a socket');
          this.#count(output.frame);
          // Lent for the length of the call only.
          this.#fly('agent', new Uint8Array(output.frame));
          break;
        case 'transmit-text':
          break;
        case 'deliver':
          this.#verifyDelivered(output.payload);
          break;
        case 'opened':
          this.#isOpen = true;
          break;
        case 'reconnect':
          this.#at(0, () => {
            this.#cut();
          });
          break;
        case 'terminated':
          this.#hasTerminated = true;
          break;
        case 'closed':
          this.#end = output;
          break;
        case 'failed':
          this.#fail(`the session failed: ${output.error.message}`);
          break;
        case 'flag':
        case 'publication':
        case 'ignored':
          break;
      }
    }
  }

  #pull(): void {
    while (this.#taken < this.#offered) {
      const capacity = this.#session.sendCapacity(this.#instant);
      if (capacity > this.#plan.maxPayloadBytes) this.#fail('capacity beyond the payload bound');
      if (capacity === 0) {
        this.#session.noteSendBlocked();
        return;
      }
      const end = Math.min(this.#offered, this.#taken + capacity);
      const chunk = new Uint8Array(this.#toAgent.subarray(this.#taken, end));
      this.#taken = end;
      this.#apply(this.#session.send(chunk, this.#instant));
      // The session must have copied what it was given.
      chunk.fill(0xee);
    }
  }

  #arm(): void {
    const wakeAt = this.#session.nextWakeAt();
    if (wakeAt === this.#armedAt) return;
    this.#armedAt = wakeAt;
    if (wakeAt === undefined) return;
    this.#at(Math.max(0, wakeAt - this.#now), () => {
      if (this.#armedAt !== wakeAt) return;
      this.#armedAt = undefined;
      this.#apply(this.#session.wake(this.#instant));
      const next = this.#session.nextWakeAt();
      if (next !== undefined && next <= this.#now) this.#fail('a wake made no progress');
    });
  }

  #open(): void {
    if (this.#isSocketUp) return;
    this.#socket += 1;
    this.#isSocketUp = true;
    this.#lastArrival = { client: this.#now, agent: this.#now };
    const grant = { tokenValue: `token ${this.#socket}`, requestId: `request ${this.#socket}` };
    this.#apply(this.#session.socketOpened(grant, this.#instant));
    // What else ends the agent's pause is the repeated acknowledgement, unless there is none yet or
    // the link may lose it.
    const isOnlyHope = this.#session.phase === 'awaiting-request' || this.#weather.drop > 0;
    if (isOnlyHope || this.#random.chance(0.8)) {
      this.#at(this.#random.between(0, 200), () => {
        this.#agent.setPaused(false);
        this.#receive(
          naiveEncode({ messageType: 'start_publication', digest: new Uint8Array(32) }),
        );
      });
    }
  }

  #cut(): void {
    if (!this.#isSocketUp) return;
    this.#isSocketUp = false;
    this.#socket += 1;
    // The service has read some of what was written, in order, and none of the rest.
    const survivors = this.#random.between(0, this.#flights.length);
    for (const flight of this.#flights.slice(survivors)) flight.isLost = true;
    this.#flights = [];
    this.#agent.setPaused(true);
    this.#apply(this.#session.socketLost(this.#plan.weather.closeCode, this.#instant));
    this.#at(this.#random.between(0, this.#weather.downMs), () => {
      this.#open();
    });
  }

  // ---- the network ------------------------------------------------------------------------------

  #fly(to: 'client' | 'agent', frame: Uint8Array): void {
    const { drop, duplicate, corrupt } = this.#weather;
    if (to === 'client' && !this.#isSocketUp) return;
    if (this.#random.chance(drop)) {
      this.#dropped += 1;
      return;
    }
    const copies = this.#random.chance(duplicate) ? 2 : 1;
    for (let copy = 0; copy < copies; copy += 1) {
      const isCorrupt = to === 'client' && this.#corrupted < 3 && this.#random.chance(corrupt);
      this.#deliverLater(to, isCorrupt ? this.#corrupt(frame) : frame);
    }
  }

  #deliverLater(to: 'client' | 'agent', frame: Uint8Array): void {
    const { delayMs, jitterMs, reorders } = this.#weather;
    let arriveAt = this.#now + delayMs + this.#random.next() * jitterMs;
    if (!reorders) arriveAt = Math.max(arriveAt, this.#lastArrival[to]);
    this.#lastArrival[to] = Math.max(arriveAt, this.#lastArrival[to]);
    const flight: Flight = { socket: this.#socket, isLost: false };
    if (to === 'agent') this.#flights.push(flight);
    this.#at(arriveAt - this.#now, () => {
      if (to === 'client') {
        if (flight.socket === this.#socket) this.#receive(frame);
        return;
      }
      this.#flights = this.#flights.filter((other) => other !== flight);
      if (!flight.isLost) this.#agent.receive(frame, this.#now);
    });
  }

  #receive(frame: Uint8Array): void {
    if (!this.#isSocketUp) return;
    // A buffer that is reused, as sockets do.
    const view = Buffer.from(frame);
    this.#apply(this.#session.receive(view, this.#instant));
    view.fill(0xdd);
  }

  #corrupt(frame: Uint8Array): Uint8Array {
    const message = naiveDecode(frame);
    if (message?.messageType !== 'output_stream_data' || message.payload.length === 0) return frame;
    this.#corrupted += 1;
    const damaged = new Uint8Array(frame);
    const offset = this.#random.between(120, frame.length - 1);
    damaged[offset] = (damaged[offset] ?? 0) ^ 0x10;
    return damaged;
  }

  #scheduleTrouble(): void {
    const { cutEveryMs, stalls, untilMs } = this.#plan.weather;
    if (cutEveryMs > 0) {
      for (let at = 0; at < untilMs; at += 1 + this.#random.between(0, 2 * cutEveryMs)) {
        this.#at(at, () => {
          this.#cut();
        });
      }
    }
    if (stalls) {
      for (let at = 0; at < untilMs; at += this.#random.between(500, 8_000)) {
        const until = Math.min(untilMs, at + this.#random.between(10, 6_000));
        this.#at(at, () => {
          this.#agent.setStalled(true, this.#now);
        });
        this.#at(until, () => {
          this.#agent.setStalled(false, this.#now);
        });
      }
    }
  }

  // ---- the two ends -----------------------------------------------------------------------------

  #offer(): void {
    const { isInteractive } = this.#plan;
    const left = this.#toAgent.length - this.#offered;
    if (left === 0) return;
    this.#offered += isInteractive ? Math.min(left, this.#random.between(1, 3_000)) : left;
    this.#at(isInteractive ? this.#random.between(0, 400) : 0, () => {
      this.#offer();
    });
  }

  #produce(): void {
    const left = this.#toClient.length - this.#produced;
    if (left === 0) return;
    if (this.#agent.isConnected(this.#now) && !this.#agent.isPaused) {
      const size = Math.min(left, this.#random.chance(0.7) ? 1024 : this.#random.between(1, 1024));
      this.#agent.sendOutput(
        this.#toClient.subarray(this.#produced, this.#produced + size),
        this.#now,
      );
      this.#produced += size;
      if (this.#random.chance(0.02)) this.#agent.sendFlag(3, this.#now);
    }
    this.#at(this.#random.chance(0.9) ? 1 : this.#random.between(0, 500), () => {
      this.#produce();
    });
  }

  #verifyDelivered(payload: Uint8Array): void {
    if (payload.length === 0) this.#fail('an empty delivery');
    const expected = this.#toClient.subarray(this.#delivered, this.#delivered + payload.length);
    if (Buffer.compare(payload, expected) !== 0) {
      this.#fail(`what was delivered from ${this.#delivered} on is not what was sent`);
    }
    this.#delivered += payload.length;
  }

  #verifyAtAgent(): void {
    for (const payload of this.#agent.takeReceived()) {
      const start = this.#verifiedAtAgent;
      const expected = this.#toAgent.subarray(start, start + payload.length);
      if (Buffer.compare(payload, expected) !== 0) {
        this.#fail(`what arrived at the agent from ${start} on is not what was sent`);
      }
      this.#verifiedAtAgent += payload.length;
    }
    if (this.#agent.handshakeResponses > 1) this.#fail('more than one handshake response');
  }

  #checkBounds(): void {
    const { maxInFlightBytes, maxInFlightMessages } = this.#plan;
    // Handshake response and terminate flag go out whatever the window says.
    const probes = this.#plan.traits.ignoresDuplicates ? MAX_PROBES : 0;
    const extra = 2 + probes;
    const { unackedMessages, unackedBytes, earlyMessages } = this.#session;
    if (unackedMessages > maxInFlightMessages + extra) this.#fail('too many messages in flight');
    if (unackedBytes > maxInFlightBytes + 300 + probes * SMALL_PAYLOAD_BYTES) {
      this.#fail('too many bytes in flight');
    }
    if (earlyMessages > 10_000) this.#fail('too many early messages');
  }

  /** Counts stream messages against the rate the service tolerates. */
  #count(frame: Uint8Array): void {
    const message = naiveDecode(frame);
    if (message?.messageType !== 'input_stream_data') return;
    this.#transmitted += 1;
    this.#distinct.add(message.messageId);
    const { messagesPerSecond: rate } = this.#plan;
    this.#sendTimes.push(this.#now);
    while (this.#now - (this.#sendTimes[0] ?? this.#now) > 1000) this.#sendTimes.shift();
    if (this.#sendTimes.length > rate * 1.05 + 4) this.#fail('faster than the pace');
  }

  #at(delayMs: number, act: () => void): void {
    this.#events.add(this.#now + delayMs, act);
  }

  #every(periodMs: number, act: () => void): void {
    this.#at(periodMs, () => {
      act();
      this.#every(periodMs, act);
    });
  }

  #fail(what: string): never {
    throw new ScheduleFailure(this.#seed, `${what} (at ${Math.round(this.#now)} ms)`, this.#plan);
  }
}

/** Bytes that differ at every position one is likely to confuse with another. */
function pattern(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i += 1) bytes[i] = (i * 31 + (i >>> 7) * 17 + (i >>> 15) + seed) & 0xff;
  return bytes;
}

/** A binary heap by time, first come first served. */
class EventQueue {
  readonly #heap: Event[] = [];
  #order = 0;

  add(at: number, act: () => void): void {
    const heap = this.#heap;
    let index = heap.push({ at, order: this.#order, act }) - 1;
    this.#order += 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#isBefore(index, parent)) break;
      this.#swap(index, parent);
      index = parent;
    }
  }

  take(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    heap[0] = last;
    let index = 0;
    for (;;) {
      let least = index;
      for (const child of [2 * index + 1, 2 * index + 2]) {
        if (child < heap.length && this.#isBefore(child, least)) least = child;
      }
      if (least === index) return first;
      this.#swap(index, least);
      index = least;
    }
  }

  #isBefore(left: number, right: number): boolean {
    const a = this.#heap[left]!;
    const b = this.#heap[right]!;
    return a.at < b.at || (a.at === b.at && a.order < b.order);
  }

  #swap(left: number, right: number): void {
    const a = this.#heap[left]!;
    this.#heap[left] = this.#heap[right]!;
    this.#heap[right] = a;
  }
}
