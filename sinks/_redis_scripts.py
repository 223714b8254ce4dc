"""The Lua scripts of the Redis sink: each compares and sets in one step that nothing can come between.

The hash of *partitions* holds for each "GENERATION OFFSET TOPIC-ID": who feeds it, and where reading goes on.
A *version key* holds 20 digits of version, then ``r`` and the application's key for a row, ``d`` for a deleted one.
Versions are compared as strings of 20 digits: a number in Lua is a double, which cannot tell 2^60 from 2^60+1.

Scripts begin with ``#!lua``, or the server would not look at its memory limit. Those that delete or protect are
flagged ``allow-oom``: a full cache must not go on serving deleted rows.
"""

from __future__ import annotations

from typing import Final

NOTHING: Final = b"-" * 20
"""Stands for "no version", and is less than any."""

LOST: Final = "LOST"
FENCED: Final = "FENCED"

_GUARD: Final = f"""
-- KEYS[1] partitions, KEYS[2] floor of the partition; ARGV[1] the partition, ARGV[2] the caller's generation,
-- ARGV[3] the offset that it has stored
local function number(text) return tonumber(text) or -1 end
local kept = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local generation, offset = string.match(kept, '^(%d+) (%d+) ')
if number(generation) > number(ARGV[2]) then return redis.error_reply('{FENCED} generation') end
if number(generation) < number(ARGV[2]) or number(offset) < number(ARGV[3]) then
  return redis.error_reply('{LOST} partition')
end
local floor = redis.call('GET', KEYS[2]) or ''
"""

UPSERT: Final = f"""#!lua
-- ARGV[4] TTL in ms, 0 = none. Per row, KEYS: version key, application key; ARGV: version (a partial row's is followed
-- by the one that it was merged from), value ('' = remember the version only). Returns the partial rows, counted from
-- 1, that must be merged again.
{_GUARD}
local stale = {{}}
for row = 1, #KEYS / 2 - 1 do
  local version_key, key, value = KEYS[2 * row + 1], KEYS[2 * row + 2], ARGV[2 * row + 4]
  local version, base = string.sub(ARGV[2 * row + 3], 1, 20), string.sub(ARGV[2 * row + 3], 21)
  local stored = redis.call('GET', version_key) or '{NOTHING.decode()}'
  local held = string.sub(stored, 1, 20)
  if held < version and version >= floor then
    if base ~= '' and base ~= held then
      stale[#stale + 1] = row
    else
      local former = string.sub(stored, 22)
      if former ~= '' and former ~= key then redis.call('DEL', former) end
      if value == '' then redis.call('DEL', key)
      elseif ARGV[4] == '0' then redis.call('SET', key, value)
      else redis.call('SET', key, value, 'PX', ARGV[4]) end
      redis.call('SET', version_key, version .. 'r' .. key)
    end
  end
end
return stale
"""

DELETE: Final = f"""#!lua flags=allow-oom
-- ARGV[4] TTL of a tombstone in ms. Per row, KEYS: version key; ARGV: version. What is deleted with the floor's own
-- version (a sweep) needs no tombstone: the floor stays.
{_GUARD}
for row = 3, #KEYS do
  local stored, version = redis.call('GET', KEYS[row]) or '', ARGV[row + 2]
  if string.sub(stored, 1, 20) < version and version >= floor then
    local key = string.sub(stored, 22)
    if key ~= '' then redis.call('DEL', key) end
    if version == floor then redis.call('DEL', KEYS[row])
    else redis.call('SET', KEYS[row], version .. 'd', 'PX', ARGV[4]) end
  end
end
return {{}}
"""

RAISE_FLOOR: Final = f"""#!lua flags=allow-oom
-- ARGV[4] the new floor
{_GUARD}
if floor < ARGV[4] then redis.call('SET', KEYS[2], ARGV[4]) end
return {{}}
"""

STORE: Final = f"""#!lua flags=allow-oom
-- ARGV[4] the offset at which reading goes on, ARGV[5] the topic's id
{_GUARD}
redis.call('HSET', KEYS[1], ARGV[1], generation .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
return {{}}
"""

CLAIM: Final = """#!lua flags=allow-oom
-- KEYS[1] partitions; ARGV the partitions to claim, whose generations are returned
local generations = {}
for number, partition in ipairs(ARGV) do
  local generation, rest = string.match(redis.call('HGET', KEYS[1], partition) or '', '^(%d+) (.*)$')
  generations[number] = tonumber(generation or 0) + 1
  redis.call('HSET', KEYS[1], partition, string.format('%d ', generations[number]) .. (rest or '0 '))
end
return generations
"""
