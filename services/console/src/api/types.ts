// The shapes of the API that the page reads, as its OpenAPI document has them.

export interface Page<T> { items: T[], next: string | null, missing: string[] }

export type Role = 'viewer' | 'operator' | 'admin'
export interface Me { user: string, role: Role, csrf: string }

export type Severity = 'error' | 'warning' | 'info' | 'ok'
export interface Finding { text: string, severity: Severity, todo?: string | null, at?: number | null }

export interface Connection {
  edge: string
  address: string
  listener: string
  transport: string
  version: string
  since: string | number
  slow: boolean
  in_flight: number
  waiting: number
  keep_alive_s?: number | null
  idle_s?: number | null
  receive_maximum?: number | null
}

export interface Queue {
  length: number
  size_bytes: number
  last_seq: number
  sent_seq: number
  expiring: number
  oldest_at?: number | null
}

export interface QueueEntry {
  seq: number
  topic: string
  qos: number
  retain: boolean
  payload_size_bytes: number
  payload_base64: string
  is_cut: boolean
  queued_at?: number | null
  expires_at?: number | null
  shared_group?: string | null
  is_sent: boolean
  is_readable: boolean
}

export interface Will {
  topic: string
  qos: number
  retain: boolean
  payload_size_bytes: number
  payload_base64: string
  delay_s: number
  due_at?: number | null
  is_pending: boolean
}

export interface Session {
  expiry_s: number
  ends_at?: number | null
  epoch: number
  user?: string | null
  queue: Queue
  subscription_count: number
  awaiting_pubcomp: number
}

export interface ClientSummary {
  client_id: string
  mount_point: string
  state: 'connected' | 'offline'
  user?: string | null
  durable: boolean
  subscriptions?: number | null
  queued?: number | null
  ends_at?: number | null
  connection?: Connection | null
}

export interface InFlight {
  packet_id: number
  seq: number
  awaits: string
  topic?: string | null
  qos: number
  size_bytes?: number | null
}

export interface ClientDetail {
  client_id: string
  mount_point: string
  state: 'connected' | 'offline'
  user?: string | null
  connection?: Connection | null
  session?: Session | null
  in_flight: InFlight[]
  wills: Will[]
  missing: string[]
}

export interface Subscription {
  client_id: string
  mount_point: string
  filter: string
  qos: number
  no_local: boolean
  retain_as_published: boolean
  retain_handling: number
  subscription_id?: number | null
  durable: boolean
  state: 'connected' | 'offline'
  edge?: string | null
}

export interface BrokerEvent {
  id: string
  at: number
  edge: string
  client: string
  mount_point: string
  kind: string
  reason: string
  address?: string
  listener?: string
  user?: string
  version?: string
  topic?: string | null
  count?: number | null
  detail?: string | null
}

export interface RetainedItem {
  topic: string
  qos: number
  payload_size_bytes: number
  received_at: number
  expires_at?: number | null
  payload_base64: string
  is_cut: boolean
}

export interface RetainedValue {
  topic: string
  qos: number
  payload_base64: string
  payload_size_bytes: number
  received_at: number
  expires_at?: number | null
  content_type?: string | null
  response_topic?: string | null
  user_properties: [string, string][]
}

export interface TreeNode { name: string, topic: string, has_value: boolean, topics: number, size_bytes: number }
export interface Tree {
  prefix: string
  children: TreeNode[]
  topics: number
  size_bytes: number
  is_partial: boolean
  more: boolean
}

export interface Deletion {
  id: string
  filter: string
  state: 'running' | 'done' | 'stopped' | 'failed'
  looked_at: number
  deleted: number
  progress: number
  problem?: string | null
}

export interface Receiver {
  client_id: string
  mount_point: string
  state: 'connected' | 'offline'
  user?: string | null
  filters: string[]
  qos: number
  acl: 'allowed' | 'denied' | 'unknown'
  edge?: string | null
  durable: boolean
  no_local: boolean
}
export interface ReceiverGroup { share_name: string, filter: string, members: number, connected: number }
export interface Receivers {
  topic: string
  receivers: Receiver[]
  groups: ReceiverGroup[]
  more: boolean
  missing: string[]
}

export interface GroupMember {
  client_id: string
  mount_point: string
  state: 'connected' | 'offline'
  durable: boolean
  qos: number
  edge?: string | null
  unacknowledged?: number | null
  is_least: boolean
}
export interface SharedGroup { name: string, share_name: string, filter: string, members: number, connected: number }
export interface SharedGroupDetail {
  name: string
  share_name: string
  filter: string
  members: GroupMember[]
  more: boolean
  missing: string[]
}

export interface SampleMessage {
  at: number
  topic: string
  qos: number
  retain: boolean
  payload_size_bytes: number
  payload_base64: string
  is_cut: boolean
}
export interface SampleStatus { seen: number, skipped: number }
