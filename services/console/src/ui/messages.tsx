// A list of messages that stays fluid: only the rows that are seen exist, and they are drawn once a frame.
import type { JSX } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { bytes, clock } from '../format'
import type { Message, Messages } from '../mqtt/messages'
import { preview } from '../mqtt/payload'
import { t } from '../texts'
import { Empty } from './kit'

const ROW = 48
const AHEAD = 6

/** How often the page looks whether messages have come; each time it draws once. */
const DRAW_MS = 100

export function useVersion(messages: Messages): number {
  const [version, setVersion] = useState(messages.version)
  useEffect(() => {
    const timer = setInterval(() => { setVersion(messages.version) }, DRAW_MS)
    return () => { clearInterval(timer) }
  }, [messages])
  return version
}

export function MessageList({ messages, onOpen, empty }: {
  messages: Messages, onOpen: (message: Message) => void, empty: { title: string, text: string }
}): JSX.Element {
  useVersion(messages)
  const frame = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [height, setHeight] = useState(430)
  const shown = messages.shown
  const before = useRef(0)
  // Newest first: what comes while the reader has scrolled down must not move what is read.
  useLayoutEffect(() => {
    const element = frame.current
    if (element && element.scrollTop > ROW / 2 && messages.added > before.current) {
      element.scrollTop += (messages.added - before.current) * ROW
    }
    before.current = messages.added
  }, [messages.added])
  useEffect(() => {
    const element = frame.current
    if (!element) return
    const observer = new ResizeObserver(() => { setHeight(element.clientHeight) })
    observer.observe(element)
    return () => { observer.disconnect() }
  }, [])
  const first = Math.max(0, Math.floor(top / ROW) - AHEAD)
  const end = Math.min(shown.length, Math.ceil((top + height) / ROW) + AHEAD)
  const rows = []
  for (let index = first; index < end; index += 1) {
    const message = shown[shown.length - 1 - index]
    if (message) rows.push(<Row key={message.id} message={message} at={index * ROW} onOpen={onOpen} />)
  }
  return (
    <div class="messages" ref={frame} tabIndex={0} role="region" aria-label={t.messages.title}
      onScroll={event => { setTop(event.currentTarget.scrollTop) }}>
      {shown.length === 0 && <Empty title={empty.title}>{empty.text}</Empty>}
      <div class="messages-space" style={{ height: `${shown.length * ROW}px` }}>{rows}</div>
    </div>
  )
}

function Row({ message, at, onOpen }: { message: Message, at: number, onOpen: (message: Message) => void }): JSX.Element {
  const colour = message.colour ? ` curve-${message.colour}` : ''
  return (
    <button type="button" class={`message${colour}${message.sent ? ' sent' : ''}`} style={{ top: `${at}px` }} onClick={() => { onOpen(message) }}>
      <span>
        <b>{message.sent && `${t.messages.sent} `}{message.topic}</b>
        <small>QoS {message.qos}{message.retain && ` · ${t.retain}`} · {bytes(message.size)} · {clock(message.at, true)}</small>
      </span>
      <code>{preview(message.payload) || t.payload.emptyShort}</code>
    </button>
  )
}
