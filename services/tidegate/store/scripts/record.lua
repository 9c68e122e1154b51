-- The record: a list for each client and a stream of all clients, with the newest events. A list takes
-- as much as its events; the first node of a stream takes 4 KiB, and most clients have few events.

-- arguments: 1 = streams, 0 = lists; how many events each keeps, its lifetime after the last one in
--   seconds, then for each event its key and the event
-- result: how many were added; in a list each has an identifier like that of a stream before it
local function record(i, last)
  local is_stream, most, lifetime, before = ARGV[i] == '1', tonumber(ARGV[i + 1]), ARGV[i + 2], nil
  local now = call('TIME')
  local milliseconds, number = now[1] * 1000 + math.floor(now[2] / 1000), now[2] % 1000 * 1000
  for n = i + 3, last, 2 do
    local key = ARGV[n]
    if is_stream then
      call('XADD', key, 'MAXLEN', most, '*', 'e', ARGV[n + 1])
    else
      number = number + 1
      local entry = string.format('%.0f-%.0f ', milliseconds, number) .. ARGV[n + 1]
      if call('RPUSH', key, entry) > most then call('LTRIM', key, -most, -1) end
    end
    if key ~= before then call('EXPIRE', key, lifetime) end
    before = key
  end
  return (last - i - 2) / 2
end
