// The messages of one list: bounded, filtered, paused, exported. Pure: no MQTT, no page.
import { asText, toBase64 } from './payload'
import { matches } from './topics'

export interface Message {
  id: number
  at: number
  topic: string
  payload: Uint8Array
  /** Of the whole payload; what is shown may be its beginning. */
  size: number
  qos: number
  retain: boolean
  duplicate?: boolean
  sent?: boolean
  /** Of the subscription; 1 to 6. */
  colour?: number
  properties?: Record<string, unknown>
}

export class Messages {
  /** Those that are shown, oldest first. */
  shown: Message[] = []
  /** Counts up with each change. */
  version = 0
  /** How many rows have ever been added to what is shown. */
  added = 0
  received = 0
  paused = false
  /** Came while paused; they are shown when it goes on. */
  held = 0
  private all: Message[] = []
  private filter = ''
  private lastId = 0
  private waiting: Message[] = []

  constructor(private readonly limit = 20_000) {}

  get count(): number { return this.all.length }

  add(message: Omit<Message, 'id'>): void {
    this.lastId += 1
    this.version += 1
    if (!message.sent) this.received += 1
    const kept = { ...message, id: this.lastId }
    if (this.paused) {
      this.held += 1
      this.waiting.push(kept)
      if (this.waiting.length > this.limit) this.waiting.splice(0, this.waiting.length - this.limit)
      return
    }
    this.keep(kept)
  }

  private keep(message: Message): void {
    this.all.push(message)
    if (this.passes(message)) {
      this.added += 1
      if (this.shown !== this.all) this.shown.push(message)
    }
    // In pieces: removing one by one would move the whole array each time.
    if (this.all.length > this.limit * 1.1) {
      this.all.splice(0, this.all.length - this.limit)
      if (this.shown !== this.all) {
        const oldest = this.all[0]?.id ?? 0
        this.shown.splice(0, this.shown.findIndex(one => one.id >= oldest))
      }
    }
  }

  private passes(message: Message): boolean {
    const filter = this.filter
    if (!filter) return true
    if (/[+#]/.test(filter)) return matches(filter, message.topic)
    const wanted = filter.toLowerCase()
    return message.topic.toLowerCase().includes(wanted) || Boolean(asText(message.payload)?.toLowerCase().includes(wanted))
  }

  /** Show only messages whose topic or text contains this, or whose topic it matches as a topic filter. */
  setFilter(filter: string): void {
    this.filter = filter
    this.shown = filter ? this.all.filter(one => this.passes(one)) : this.all
    this.version += 1
  }

  setPaused(paused: boolean): void {
    this.paused = paused
    this.version += 1
    if (paused) return
    for (const message of this.waiting) this.keep(message)
    this.waiting = []
    this.held = 0
  }

  clear(): void {
    this.all = []
    this.waiting = []
    this.held = 0
    this.received = 0
    this.setFilter(this.filter)
  }

  /** What is shown as JSON lines: the payload as text where it is text, else as base64. */
  export(): string {
    return this.shown.map(line).join('')
  }
}

function line(message: Message): string {
  const text = asText(message.payload)
  return JSON.stringify({
    at: new Date(message.at * 1000).toISOString(),
    direction: message.sent ? 'sent' : 'received',
    topic: message.topic,
    qos: message.qos,
    retain: message.retain,
    ...(message.duplicate ? { duplicate: true } : {}),
    ...(text === null ? { payload_base64: toBase64(message.payload) } : { payload: text }),
    ...(message.size > message.payload.length ? { payload_size_bytes: message.size } : {}),
    ...(message.properties ? { properties: message.properties } : {})
  }) + '\n'
}
