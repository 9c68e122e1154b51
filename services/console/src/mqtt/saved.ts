// Connections that the reader keeps in this browser. Passwords only if he asks for it.
import { store, stored } from '../ui/state'

export interface SavedSubscription { filter: string, qos: 0 | 1 | 2, colour: number, noLocal: boolean }

export interface SavedWill {
  topic: string
  payload: string
  qos: 0 | 1 | 2
  retain: boolean
  delay: string
  expiry: string
  contentType: string
}

export type Pairs = [string, string][]

export interface Saved {
  id: string
  name: string
  url: string
  version: 5 | 4
  clientId: string
  user: string
  password: string
  keepPassword: boolean
  clean: boolean
  keepAlive: string
  sessionExpiry: string
  receiveMaximum: string
  maximumPacketSize: string
  userProperties: Pairs
  will: SavedWill | null
  subscriptions: SavedSubscription[]
}

export const COLOURS = 6

export function randomId(): string {
  return [...crypto.getRandomValues(new Uint8Array(4))].map(byte => byte.toString(16).padStart(2, '0')).join('')
}

export function fresh(url: string, name: string): Saved {
  return {
    id: randomId(), name, url, version: 5, clientId: `console-${randomId()}`, user: '', password: '', keepPassword: false,
    clean: true, keepAlive: '60', sessionExpiry: '', receiveMaximum: '', maximumPacketSize: '', userProperties: [],
    will: null, subscriptions: []
  }
}

export function freshWill(): SavedWill {
  return { topic: '', payload: '', qos: 0, retain: false, delay: '', expiry: '', contentType: '' }
}

export function load(): Saved[] {
  try {
    const found = JSON.parse(stored('connections') ?? '[]') as Partial<Saved>[]
    return found.map(one => ({ ...fresh('', ''), ...one }))
  } catch {
    return []
  }
}

export function keep(all: Saved[]): void {
  store('connections', JSON.stringify(all.map(one => ({ ...one, password: one.keepPassword ? one.password : '' }))))
}

export function nextColour(subscriptions: SavedSubscription[]): number {
  const used = subscriptions.map(one => one.colour)
  for (let colour = 1; colour <= COLOURS; colour += 1) {
    if (!used.includes(colour)) return colour
  }
  return subscriptions.length % COLOURS + 1
}
