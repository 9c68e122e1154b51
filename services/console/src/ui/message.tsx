import type { JSX } from 'preact'
import { clock, day } from '../format'
import type { Message } from '../mqtt/messages'
import { t } from '../texts'
import { Dialog } from './dialog'
import { Code, Facts } from './kit'
import { Payload } from './payload'

function shown(value: unknown): string {
  if (value instanceof Uint8Array) return [...value].map(byte => byte.toString(16).padStart(2, '0')).join(' ')
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

export function MessageDialog({ message, onClose }: { message: Message, onClose: () => void }): JSX.Element {
  const properties = Object.entries(message.properties ?? {}).filter(([, value]) => value !== undefined)
  return (
    <Dialog title={message.sent ? t.messages.sentMessage : t.messages.message} onClose={onClose} wide>
      <div class="dialog-body">
        <Code copy>{message.topic}</Code>
        <Facts items={[
          [t.messages.at, `${day(message.at)} ${clock(message.at, true)}`],
          ['QoS', `${message.qos}${message.duplicate ? `, ${t.messages.duplicate}` : ''}`],
          [t.messages.retained, message.retain ? t.yes : t.no],
          ...properties.map(([name, value]): [string, string] => [t.messages.properties[name] ?? name, shown(value)])
        ]} />
        <Payload payload={message.payload} size={message.size} cut={message.payload.length < message.size} />
      </div>
    </Dialog>
  )
}
