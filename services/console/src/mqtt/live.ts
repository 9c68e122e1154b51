// One connection of this browser: MQTT.js, its subscriptions, its messages, and why it failed.
import { signal } from '@preact/signals'
import type { IClientOptions, IClientPublishOptions, MqttClient } from 'mqtt'
import { codeWords, explain, isFinal, urlProblem, type Explanation } from './failures'
import type { Listener } from './listeners'
import { Messages } from './messages'
import type { Pairs, Saved, SavedSubscription } from './saved'
import { matches } from './topics'
import { t } from '../texts'

export type State = 'idle' | 'connecting' | 'connected' | 'failed' | 'waiting'

const CONNECT_TIMEOUT_MS = 10_000
const AGAIN_MS = 3000
const PATHS = ['/mqtt', '/ws', '/']

/** MQTT.js is fetched when the first connection is made, so that other screens need not carry it. */
async function library(): Promise<typeof import('mqtt')> {
  return await import('mqtt')
}

function userProperties(pairs: Pairs): Record<string, string[]> | undefined {
  const found: Record<string, string[]> = {}
  for (const [name, value] of pairs) if (name) (found[name] ??= []).push(value)
  return Object.keys(found).length ? found : undefined
}

function defined<T extends object>(given: T): Partial<T> {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Partial<T>
}

function number(text: string): number | undefined {
  return text.trim() === '' ? undefined : Number(text)
}

function willOf(saved: Saved): IClientOptions['will'] {
  const will = saved.will
  if (!will?.topic) return undefined
  const properties = defined({
    willDelayInterval: number(will.delay), messageExpiryInterval: number(will.expiry),
    contentType: will.contentType || undefined
  })
  return {
    topic: will.topic, payload: will.payload as unknown as Buffer, qos: will.qos, retain: will.retain,
    ...(saved.version === 5 ? { properties } : {})
  } as NonNullable<IClientOptions['will']>
}

export function optionsOf(saved: Saved): IClientOptions {
  const properties = defined({
    sessionExpiryInterval: number(saved.sessionExpiry), receiveMaximum: number(saved.receiveMaximum),
    maximumPacketSize: number(saved.maximumPacketSize), userProperties: userProperties(saved.userProperties)
  })
  return defined({
    protocolVersion: saved.version, clientId: saved.clientId, clean: saved.clean, keepalive: Number(saved.keepAlive) || 0,
    username: saved.user || undefined, password: saved.password || undefined, will: willOf(saved),
    reconnectPeriod: 0, connectTimeout: CONNECT_TIMEOUT_MS, resubscribe: false, reschedulePings: true,
    // The other variant makes a worker of a blob:, which the page's policy does not allow.
    timerVariant: 'native' as const,
    ...(saved.version === 5 ? { properties } : {})
  }) as IClientOptions
}

/** Whether a WebSocket opens; it is closed at once. */
async function opens(url: string, protocols: string[]): Promise<boolean> {
  return await new Promise(resolve => {
    const socket = new WebSocket(url, protocols)
    const end = (answer: boolean): void => {
      clearTimeout(timer)
      socket.close()
      resolve(answer)
    }
    const timer = setTimeout(() => { end(false) }, 3000)
    socket.onopen = () => { end(true) }
    socket.onerror = () => { end(false) }
  })
}

export interface Outgoing {
  topic: string
  payload: Uint8Array
  qos: 0 | 1 | 2
  retain: boolean
  expiry: string
  contentType: string
  responseTopic: string
  correlation: string
  isText: boolean
  userProperties: Pairs
}

export class Live {
  readonly state = signal<State>('idle')
  readonly problem = signal<Explanation | undefined>(undefined)
  /** Filter to what SUBACK said, where it refused. */
  readonly refused = signal<Record<string, string>>({})
  readonly sessionPresent = signal(false)
  readonly since = signal(0)
  readonly messages = new Messages()
  private client: MqttClient | undefined
  private again: ReturnType<typeof setTimeout> | undefined
  private attempt = 0
  private subscriptions: SavedSubscription[] = []

  constructor(private readonly listeners: () => Listener[]) {}

  async connect(saved: Saved): Promise<void> {
    this.end()
    this.attempt += 1
    const attempt = this.attempt
    this.subscriptions = saved.subscriptions
    this.problem.value = urlProblem(saved.url, location.protocol === 'https:') ?? undefined
    this.state.value = this.problem.value ? 'failed' : 'connecting'
    if (this.problem.value) return
    const { default: mqtt } = await library()
    if (attempt !== this.attempt) return
    const began = Date.now()
    let opened = false
    let code: number | undefined
    let connected = false
    const client = mqtt.connect(saved.url, {
      ...optionsOf(saved),
      createWebsocket: (url, protocols) => {
        const socket = new WebSocket(url, protocols)
        socket.addEventListener('open', () => { opened = true })
        return socket
      }
    })
    this.client = client
    client.on('connect', connack => {
      connected = true
      this.state.value = 'connected'
      this.since.value = Date.now() / 1000
      this.problem.value = undefined
      this.sessionPresent.value = connack.sessionPresent
      void this.subscribeAll()
    })
    client.on('error', error => {
      if ('code' in error && typeof error.code === 'number') code = error.code
    })
    client.on('disconnect', packet => { code = packet.reasonCode })
    client.on('message', (topic, payload, packet) => {
      this.messages.add({
        at: Date.now() / 1000, topic, payload, size: payload.length, qos: packet.qos, retain: packet.retain,
        duplicate: packet.dup, ...this.colourOf(topic), ...(packet.properties ? { properties: { ...packet.properties } } : {})
      })
    })
    client.on('close', () => {
      if (attempt !== this.attempt) return
      client.end(true)
      if (connected) this.lost(saved, code)
      else void this.failed(saved, attempt, opened, code, Date.now() - began >= CONNECT_TIMEOUT_MS - 200)
    })
  }

  private async failed(saved: Saved, attempt: number, opened: boolean, code: number | undefined, timedOut: boolean): Promise<void> {
    const url = new URL(saved.url)
    let openPath: string | undefined
    let opensWithoutSubprotocol = false
    if (!opened && code === undefined) {
      opensWithoutSubprotocol = await opens(saved.url, [])
      for (const path of opensWithoutSubprotocol ? [] : PATHS) {
        if (path !== url.pathname && await opens(`${url.protocol}//${url.host}${path}`, ['mqtt'])) {
          openPath = path
          break
        }
      }
    }
    if (attempt !== this.attempt) return
    this.problem.value = explain({
      url: saved.url, pageIsSecure: location.protocol === 'https:', opened, opensWithoutSubprotocol, openPath, code,
      version: saved.version, timedOut, listeners: this.listeners(), now: Date.now() / 1000
    })
    this.state.value = 'failed'
  }

  /** Connect again by itself, unless the broker has said that it would be of no use. */
  private lost(saved: Saved, code: number | undefined): void {
    const why = code === undefined ? t.failures.lost : codeWords(code, saved.version)
    if (isFinal(code)) {
      this.problem.value = why
      this.state.value = 'failed'
      return
    }
    this.problem.value = { text: why.text, todo: t.failures.again }
    this.state.value = 'waiting'
    this.again = setTimeout(() => { void this.connect({ ...saved, subscriptions: this.subscriptions }) }, AGAIN_MS)
  }

  disconnect(): void {
    this.attempt += 1
    this.end()
    this.state.value = 'idle'
    this.problem.value = undefined
  }

  private end(): void {
    clearTimeout(this.again)
    this.client?.end(this.state.value !== 'connected')
    this.client = undefined
  }

  private colourOf(topic: string): { colour?: number } {
    const found = this.subscriptions.find(one => matches(one.filter, topic))
    return found ? { colour: found.colour } : {}
  }

  private async subscribeAll(): Promise<void> {
    this.refused.value = {}
    for (const subscription of this.subscriptions) await this.request(subscription)
  }

  private async request(subscription: SavedSubscription): Promise<void> {
    const { filter, qos, noLocal } = subscription
    const client = this.client
    if (!client?.connected) return
    const isFive = client.options.protocolVersion === 5
    await new Promise<void>(resolve => {
      client.subscribe(filter, isFive ? { qos, nl: noLocal } : { qos }, (error, granted) => {
        const code = granted?.[0]?.qos ?? (error ? 0x80 : 0)
        const { [filter]: _, ...others } = this.refused.value
        this.refused.value = code >= 0x80 ? { ...others, [filter]: codeWords(code, 5).text } : others
        resolve()
      })
    })
  }

  async subscribe(subscription: SavedSubscription): Promise<void> {
    this.subscriptions = [...this.subscriptions.filter(one => one.filter !== subscription.filter), subscription]
    await this.request(subscription)
  }

  unsubscribe(filter: string): void {
    this.subscriptions = this.subscriptions.filter(one => one.filter !== filter)
    const { [filter]: _, ...others } = this.refused.value
    this.refused.value = others
    if (this.client?.connected) this.client.unsubscribe(filter)
  }

  async publish(message: Outgoing): Promise<string | undefined> {
    const client = this.client
    if (!client?.connected) return t.socket.notConnected
    const isFive = client.options.protocolVersion === 5
    const properties = isFive ? publishProperties(message) : {}
    const options: IClientPublishOptions = { qos: message.qos, retain: message.retain, ...(isFive ? { properties } : {}) }
    this.messages.add({
      at: Date.now() / 1000, topic: message.topic, payload: message.payload, size: message.payload.length,
      qos: message.qos, retain: message.retain, sent: true, ...(isFive ? { properties: { ...properties } } : {})
    })
    return await new Promise(resolve => {
      client.publish(message.topic, message.payload as Buffer, options, error => {
        if (!error) resolve(undefined)
        else resolve('code' in error && typeof error.code === 'number' ? codeWords(error.code, 5).text : error.message)
      })
    })
  }
}

function publishProperties(message: Outgoing): NonNullable<IClientPublishOptions['properties']> {
  return defined({
    payloadFormatIndicator: message.isText ? true : undefined,
    messageExpiryInterval: number(message.expiry), contentType: message.contentType || undefined,
    responseTopic: message.responseTopic || undefined,
    correlationData: (message.correlation || undefined) as Buffer | undefined,
    userProperties: userProperties(message.userProperties)
  }) as NonNullable<IClientPublishOptions['properties']>
}
