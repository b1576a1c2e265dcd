/** Chances are 0..1 for each message. They concern stream messages and acknowledgements only. */
export interface DirectionFaults {
  /** Added to every frame, order kept. */
  readonly delayMs?: number;
  /** 0..jitterMs more, order kept. */
  readonly jitterMs?: number;
  readonly loss?: number;
  readonly duplicate?: number;
  /** Held back by reorderMs (default 30), so that later ones overtake it. */
  readonly reorder?: number;
  readonly reorderMs?: number;
  readonly corruptDigest?: number;
  /** Flips a payload bit and leaves the digest as it was. */
  readonly corruptPayload?: number;
  /** Cuts the frame short. */
  readonly truncate?: number;
  /** Header length far past the end of the frame. */
  readonly oversizeHeader?: number;
  /** Chance of an extra frame of an unknown message type in front of this one. */
  readonly unknownType?: number;
  /** Acknowledgements vanish. */
  readonly withholdAcks?: boolean;
  /** Limits the faults above (delay, stall excepted) to frames this accepts. */
  readonly only?: (frame: FrameInfo) => boolean;
  /** Nothing moves in this direction; toAgent: the service stops reading the socket. */
  readonly stall?: boolean;
}

export interface FrameInfo {
  readonly type: string;
  readonly seq: number;
  readonly payloadType: number;
  readonly size: number;
}

/** What happens to the client's WebSocket, and when. */
export interface SocketFault {
  /** 'close' sends a close frame; 'end' is a TCP end without one; 'reset' a RST. */
  readonly how: 'close' | 'end' | 'reset' | 'blackhole';
  readonly code?: number;
  readonly reason?: string;
  /** All given bounds count from the good token; the first one reached fires. Default: at once. */
  readonly after?: {
    readonly bytes?: number;
    readonly messages?: number;
    readonly ms?: number;
    readonly direction?: 'toClient' | 'toAgent' | 'both';
  };
  /** On how many connections; default 1, Infinity for each one. */
  readonly times?: number;
}

export interface ApiFault {
  /** `StartSession`, …, `SendSSHPublicKey`; `*` for all. */
  readonly operation: string;
  readonly error?: { readonly name: string; readonly status?: number; readonly message?: string };
  readonly delayMs?: number;
  /** Never answers. */
  readonly hang?: boolean;
  /** Drops the TCP connection. */
  readonly reset?: boolean;
  /** Answers with this instead of JSON, status 200, as a captive portal does. */
  readonly html?: string;
  /** How many calls it concerns; default all. */
  readonly times?: number;
}

export interface UpgradeFault {
  readonly status?: number;
  readonly html?: string;
  readonly hang?: boolean;
  readonly reset?: boolean;
  readonly delayMs?: number;
  /** Accepts the upgrade, then never says or hears anything. */
  readonly silent?: boolean;
  /** Accepts, then closes with this code instead of taking the token. */
  readonly closeCode?: number;
  readonly times?: number;
}

/** What happens to a fresh TCP connection, before TLS. */
export interface ConnectFault {
  readonly how: 'silent' | 'reset' | 'end' | 'garbage';
  readonly times?: number;
}

export interface Faults {
  readonly toClient?: DirectionFaults;
  readonly toAgent?: DirectionFaults;
  readonly socket?: readonly SocketFault[];
  readonly api?: readonly ApiFault[];
  readonly upgrade?: readonly UpgradeFault[];
  readonly connect?: readonly ConnectFault[];
}

export interface FaultControl {
  /** Replaces the named keys, for all sessions or one. A session's own keys win. */
  set(faults: Faults, sessionId?: string): void;
  clear(sessionId?: string): void;
  /** How often each fault has fired, e.g. `toClient.loss`, `socket.close`, `api.StartSession`. */
  readonly hits: Readonly<Record<string, number>>;
}

interface Counted<T> {
  readonly fault: T;
  left: number;
}

type Listed = 'socket' | 'api' | 'upgrade' | 'connect';
type Item<K extends Listed> = NonNullable<Faults[K]>[number];

/** The faults in force, and how often each may still fire. */
export class FaultBoard implements FaultControl {
  readonly hits: Record<string, number> = {};
  readonly #scopes = new Map<string, Faults>();
  readonly #counted = new Map<object, Counted<object>>();
  readonly #changed: (sessionId: string | undefined) => void;

  constructor(changed: (sessionId: string | undefined) => void) {
    this.#changed = changed;
  }

  set(faults: Faults, sessionId?: string): void {
    this.#scopes.set(sessionId ?? '', { ...this.#scopes.get(sessionId ?? ''), ...faults });
    for (const list of [faults.socket, faults.api, faults.upgrade, faults.connect]) {
      for (const fault of list ?? []) this.#counted.delete(fault);
    }
    this.#changed(sessionId);
  }

  clear(sessionId?: string): void {
    if (sessionId === undefined) this.#scopes.clear();
    else this.#scopes.delete(sessionId);
    this.#changed(sessionId);
  }

  direction(which: 'toClient' | 'toAgent', sessionId: string): DirectionFaults | undefined {
    return this.#scopes.get(sessionId)?.[which] ?? this.#scopes.get('')?.[which];
  }

  /** The first fault of the list that still has times left and suits; uses one up. */
  take<K extends Listed>(
    list: K,
    suits: (fault: Item<K>) => boolean,
    sessionId = '',
  ): Item<K> | undefined {
    // Sound, but beyond what the compiler follows: the list under a key holds that key's items.
    const faults = (this.#scopes.get(sessionId)?.[list] ??
      this.#scopes.get('')?.[list] ??
      []) as readonly Item<K>[];
    for (const fault of faults) {
      if (!suits(fault)) continue;
      let counted = this.#counted.get(fault);
      if (counted === undefined) {
        counted = { fault, left: fault.times ?? (list === 'socket' ? 1 : Infinity) };
        this.#counted.set(fault, counted);
      }
      if (counted.left <= 0) continue;
      counted.left -= 1;
      return fault;
    }
    return undefined;
  }

  hit(name: string): void {
    this.hits[name] = (this.hits[name] ?? 0) + 1;
  }
}
