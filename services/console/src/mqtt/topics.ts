// Topic filters: whether one is well-formed, and what it matches. Pure. [MQTT-4.7.1-1] [MQTT-4.7.2-1]

export function filterProblem(filter: string): string | null {
  if (filter === '') return 'A topic filter has at least one character.'
  if (filter.includes('\u0000')) return 'A topic filter has no character U+0000.'
  const shared = /^\$share\/([^/]*)\/?(.*)$/.exec(filter)
  if (filter.startsWith('$share/')) {
    if (!shared || !shared[1] || /[+#]/.test(shared[1])) {
      return 'A shared subscription is $share/GROUP/FILTER; the group has no + and no #.'
    }
    if (!shared[2]) return 'After $share/GROUP/ comes a topic filter.'
  }
  const levels = (shared?.[2] ?? filter).split('/')
  for (const [index, level] of levels.entries()) {
    if (level.includes('#') && (level !== '#' || index !== levels.length - 1)) {
      return '# stands alone in the last level: sensors/# is right, sensors# and #/x are not.'
    }
    if (level.includes('+') && level !== '+') {
      return '+ stands alone in its level: sensors/+/temperature is right, sensors/t+ is not.'
    }
  }
  return null
}

export function topicProblem(topic: string): string | null {
  if (topic === '') return 'A message has a topic of at least one character.'
  if (/[+#]/.test(topic)) return 'The topic of a message has no + and no #; those are for filters.'
  if (topic.includes('\u0000')) return 'A topic has no character U+0000.'
  return null
}

export function matches(filter: string, topic: string): boolean {
  const plain = filter.startsWith('$share/') ? filter.split('/').slice(2).join('/') : filter
  const wanted = plain.split('/')
  const levels = topic.split('/')
  if (topic.startsWith('$') && (wanted[0] === '#' || wanted[0] === '+')) return false
  for (const [index, level] of wanted.entries()) {
    if (level === '#') return true
    if (index >= levels.length) return false
    if (level !== '+' && level !== levels[index]) return false
  }
  return wanted.length === levels.length
}
