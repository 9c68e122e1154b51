// The shapes of the broker's own parts: nodes, listeners, settings, the store, the overview, bans, the audit.
import type { Page } from './types'

export interface Drain {
  draining: boolean
  done: boolean
  reason?: string | null
  since?: string | null
  clients_at_start: number
  clients_left: number
}

export interface Node {
  name: string
  role: string
  address: string
  version: string
  ready: boolean
  reason: string
  uptime_s: number
  clients?: number | null
  drain?: Drain | null
  shedding: number
  restart_needed: string[]
  configuration_problem: string
  clock_offset_s: number
  clock_problem: string
  load: Record<string, number>
  status?: Record<string, unknown>
}

export interface Certificate {
  path: string
  what: string
  names: string[]
  not_before: number
  not_after: number
  problem: string
}

export interface ListenerInfo {
  node: string
  listener: string
  protocol: string
  addresses: string[]
  paths: string[]
  mount_point: string
  max_connections: number
  max_qos: number
  proxy_protocol: string
  allow_anonymous: boolean
  connections: number
  accepted: number
  refused: Record<string, number>
  tls?: {
    minimum_version: string
    client_certificates: string
    certificates: Certificate[]
    client_ca: Certificate[]
    client_crl: Certificate[]
  } | null
}

export interface Setting {
  key: string
  value: unknown
  default: unknown
  is_default: boolean
  description: string
  differs: Record<string, unknown>
}

export interface Settings {
  items: Setting[]
  restart_needed: Record<string, string[]>
  problems: Record<string, string>
  missing: string[]
}

export interface StoreServer {
  version: string
  role: string
  uptime_s: number
  clients: number
  memory_bytes: number
  memory_limit_bytes: number
  append_only: boolean
  append_only_ok: boolean
  replicas: number
  replica_lag_s?: number | null
  operations_per_s: number
  keys?: number | null
  partitions: number
}

export interface StoreState {
  reachable: boolean
  problem: string
  url: string
  durability: string
  partitions: number
  latency_ms: number[]
  servers: StoreServer[]
}

export interface BrokerFinding {
  area: string
  level: 'ok' | 'advice' | 'problem'
  text: string
  change: string
  node: string
}

export interface Overview {
  state: 'ok' | 'degraded' | 'down'
  findings: BrokerFinding[]
  totals?: { connections: number, sessions: number, subscriptions: number, retained: number, queued: number } | null
  rates: Record<string, number>
  dropped: Record<string, number>
  refused: Record<string, number>
  resource?: Resource | null
  store_reachable: boolean
  missing: string[]
}

/** The MqttBroker of a console on Kubernetes. */
export interface Resource {
  name: string
  namespace: string
  generation: number
  observed_generation: number
  seen_at?: number | null
  conditions: Condition[]
}

export interface Condition {
  type: string
  status: string
  reason: string
  message: string
  changed_at?: number | null
}

export interface Ban {
  id: string
  client?: string | null
  mount_point?: string | null
  user?: string | null
  address?: string | null
  reason?: string | null
  until?: number | null
  at?: number | null
  by?: string | null
}

export interface AuditEntry {
  id: string
  at: number
  user: string
  role: string
  action: string
  target: string
  outcome: string
  address: string
  detail: Record<string, unknown>
}

export interface TokenInfo {
  id: string
  name: string
  role: string
  created_at?: number | null
  created_by: string
  expires_at?: number | null
  from_file: boolean
}

export type NodePage = Page<Node>
