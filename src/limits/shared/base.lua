-- What all scripts share: the time, and hashes whose fields are read once and written at once. Times are microseconds of the
-- server's clock.

local call = redis.call
local present = clock()

-- Lua's own way to write a number keeps 14 digits only.
local function text(number)
  return string.format('%d', number)
end

local function hash_at(name)
  return {at = name, fields = {}, changed = {}}
end

-- Reads those of these fields that are not known yet, at once.
local function read(hash, wanted)
  local names = {}
  for _, name in ipairs(wanted) do
    if hash.fields[name] == nil then
      names[#names + 1] = name
    end
  end
  if #names == 0 then
    return
  end
  for index, value in ipairs(call('HMGET', hash.at, unpack(names))) do
    hash.fields[names[index]] = value
  end
end

-- A field. What is read and set is kept until `write`, which does all of it at once.
local function field(hash, name)
  local value = hash.fields[name]
  if value == nil then
    value = call('HGET', hash.at, name)
    hash.fields[name] = value
  end
  return value
end

-- `false` removes it.
local function set(hash, name, value)
  hash.fields[name], hash.changed[name] = value, true
end

local function write(hash)
  local written, removed = {}, {}
  for name in pairs(hash.changed) do
    if hash.fields[name] then
      written[#written + 1], written[#written + 2] = name, hash.fields[name]
    else
      removed[#removed + 1] = name
    end
  end
  if #written > 0 then
    call('HSET', hash.at, unpack(written))
  end
  if #removed > 0 then
    call('HDEL', hash.at, unpack(removed))
  end
  hash.changed = {}
end
