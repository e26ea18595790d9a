import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Hypervisor, Id, Nullable, OneOf, RegionCapacity, ref, Text, Timestamp } from '../http/schemas.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'
import { createFields, shownFields, updateFields } from './fields.ts'
import { STATUSES } from './row.ts'
import { STEP_NAMES } from './steps.ts'

const LABEL = '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'

const hostname = Type.String({
  pattern: `^${LABEL}$`,
  'x-rule': 'a host name label (RFC 1123): letters, digits and "-", at most 63',
  description: 'Host name of the guest.',
  examples: ['api-1'],
})
const region = Text({
  description: 'Region of the instance; see `/v2/regions`.',
  maxLength: 64,
  examples: ['us-east-1'],
})
const plan = Text({ description: 'Size of the instance; see `/v2/plans`.', maxLength: 64, examples: ['standard-4x'] })
const image = {
  ...Text({ description: 'Name or ID of an image; see `/v2/images`.', maxLength: 64, examples: ['ubuntu-22.04-lts'] }),
  'x-names': 'img',
}
const subnetId = Type.String({
  pattern: '^sub_[0-9a-z]{10}$',
  'x-rule': 'an ID such as sub_8f7e6d5c4b',
  description: 'Subnet of the private IP address. `sub_8f7e6d5c4b` is the default subnet of every environment.',
  examples: ['sub_8f7e6d5c4b'],
})
const port = Type.Integer({ minimum: 1, maximum: 65535, description: 'TCP port of the guest.', examples: [8080] })
const readyTimeout = Type.Integer({
  minimum: 10,
  maximum: 3600,
  description:
    'Seconds after a start within which the guest must report that it is ready. Otherwise the instance fails.',
})
const userData = Type.String({
  maxLength: 65_536,
  'x-max-bytes': 65_536,
  pattern: '^\\P{Cs}*$',
  'x-rule': 'text without lone surrogates',
  description: 'cloud-config or a script that the guest runs once, at most 64 KiB. The API never returns it.',
})
const sshKeyIds = Type.Array(Id('ssh', 'ID of an SSH key.'), {
  maxItems: 50,
  uniqueItems: true,
  description: 'SSH keys that can log in. Omitted: all default keys. Empty: none.',
})

// `name` and `tags` precede the other mutable fields in the documented order.
const { name, tags, ...otherFields } = shownFields

/** An instance as GET returns it. */
export const Instance = Type.Object(
  {
    id: Id('inst', 'ID of the instance.'),
    status: OneOf(STATUSES, 'Lifecycle state of the instance.'),
    region,
    plan,
    public_ip: Nullable(
      Type.String({
        description: 'Public IPv4 address. It stays the same until it is unassigned or the instance is terminated.',
        examples: ['127.90.1.5'],
      }),
    ),
    created_at: Timestamp('When the instance was created.'),
    links: Type.Object(
      {
        self: Type.String({
          description: 'URL of the instance in the API.',
          examples: ['http://127.0.0.1:8080/v2/instances/inst_3x9y2z1a0b'],
        }),
        console: Type.String({
          description: 'URL of the instance in the web console.',
          examples: ['http://127.0.0.1:8080/console/instances/inst_3x9y2z1a0b'],
        }),
      },
      { description: 'URLs of the instance.', additionalProperties: false },
    ),
    name,
    hostname,
    image,
    image_id: Id('img', 'ID of the image that the disk was created from.'),
    private_ip: Nullable(Type.String({ description: 'Private IP address in the subnet.', examples: ['10.64.0.5'] })),
    network: Type.Object(
      {
        subnet_id: subnetId,
        assign_public_ip: Type.Boolean({ description: 'Whether the instance has a public IP address.' }),
        ports: Type.Array(
          Type.Object(
            { port, public_port: Type.Union([Type.Integer(), Type.Null()]) },
            { description: 'A port of the guest, and the port of the public IP address that is forwarded to it.' },
          ),
          { description: 'Open ports. `public_port` is null while the port is not reachable.' },
        ),
      },
      { description: 'Network configuration.', additionalProperties: false },
    ),
    tags,
    status_reason: Type.Union(
      [
        Type.Object(
          {
            code: Type.String({ description: 'Stable, machine-readable code.' }),
            message: Type.String({ description: 'What happened, and what to do.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'Why the instance failed, or `expired` if it was terminated at `expires_at`; null otherwise.' },
    ),
    desired_status: OneOf(['running', 'stopped'], 'The power state that was requested last.'),
    deployment_id: Nullable(Type.String({ description: 'ID of the deployment that the instance belongs to.' })),
    ...otherFields,
    ready_timeout_seconds: readyTimeout,
    ssh: Type.Union(
      [
        Type.Object(
          {
            user: Type.String({ description: 'User name.' }),
            host: Type.String({ description: 'IP address.' }),
            port: Type.Integer({ description: 'TCP port.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'How to log in by SSH; null while that is not possible.' },
    ),
    environment: OneOf(['live', 'test'], 'Environment of the instance.'),
    ready_at: Nullable(Timestamp('When the guest was first ready since the instance was created or rebuilt.')),
    terminated_at: Nullable(Timestamp('When termination was complete.')),
    expires_at: Nullable(
      Timestamp(
        'When the instance is terminated automatically, even if it is protected. Set by the budget of the API key that created it.',
      ),
    ),
    created_by: Nullable(Id('key', 'API key that created the instance.')),
    updated_at: Timestamp('When any field last changed.'),
    version: Type.Integer({ minimum: 1, description: 'Increases with every change; also the ETag.' }),
  },
  { $id: 'Instance', description: 'A virtual machine.', additionalProperties: false },
)

export const InstancePage = PageOf(Instance)

const count = (description: string) => Type.Integer({ description })

/** The result of a dry run. */
export const InstancePlan = Type.Object(
  {
    dry_run: Type.Literal(true, { description: 'This is a preview; nothing was changed.' }),
    action: Type.String({ description: 'Operation ID of the request.', examples: ['createInstance'] }),
    would_answer: Type.Integer({ description: 'HTTP status of the response without `dry_run`.', examples: [201] }),
    before: Type.Union([ref(Instance), Type.Null()], { description: 'Current state; null for a new instance.' }),
    after: {
      ...ref(Instance),
      description:
        'State after the request. ID and IP addresses of a new instance are examples; the actual ones can differ.',
    },
    placement: Type.Object(
      { region: Type.String({ description: 'ID of the region.', examples: ['us-east-1'] }), hypervisor: Hypervisor },
      { description: 'Where the instance would run.', additionalProperties: false },
    ),
    capacity: Type.Union([RegionCapacity, Type.Null()], {
      description: 'Capacity of the region, including this request; null if there is no limit.',
    }),
    quotas: Type.Array(
      Type.Object(
        {
          name: OneOf(QUOTA_NAMES, 'Name of the quota.'),
          limit: Type.Union([Type.Integer(), Type.Null()], { description: 'Limit; null if there is none.' }),
          used: count('Current usage.'),
          would_use: count('Usage after the request.'),
        },
        { additionalProperties: false },
      ),
      { description: 'Quotas of the project in this environment.' },
    ),
    reboots: Type.Boolean({ description: 'Whether the request would reboot a running guest.' }),
    steps: Type.Array(OneOf(STEP_NAMES, 'Name of the step.'), {
      description: 'Steps that the request would require, in order.',
    }),
    ready_seconds_lately: Type.Union(
      [
        Type.Object(
          {
            p50: Type.Number({ description: 'Median, in seconds.' }),
            p90: Type.Number({ description: '90th percentile, in seconds.' }),
            samples: count('Number of samples, at most the last 50.'),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      {
        description:
          'How long recent instances of this image took from the request until the guest was ready. Null if the request boots no guest, or no instance has been ready yet.',
      },
    ),
  },
  { $id: 'InstancePlan', description: 'Preview of a request that changes an instance.', additionalProperties: false },
)

/** Response of a write that returns 200 with and without `dry_run`. */
export const InstanceOrPlan = Type.Union([ref(Instance), ref(InstancePlan)], {
  $id: 'InstanceOrPlan',
  description: 'The instance, or with `dry_run` the preview.',
})

const { name: newName, tags: newTags, ...otherNewFields } = createFields

export const InstanceCreate = Type.Object(
  {
    region,
    plan,
    image,
    network: Type.Optional(
      Type.Object(
        {
          subnet_id: Type.Optional(subnetId),
          assign_public_ip: Type.Optional(Type.Boolean({ default: false, description: 'Assign a public IP address.' })),
          ports: Type.Optional(
            Type.Array(port, {
              maxItems: 20,
              uniqueItems: true,
              description: 'Ports to open at the public IP address, in addition to 22, 80 and 443.',
            }),
          ),
        },
        {
          description: 'Network configuration. Default: default subnet, no public IP address.',
          additionalProperties: false,
        },
      ),
    ),
    tags: newTags,
    name: newName,
    hostname: Type.Optional(hostname),
    ssh_keys: Type.Optional(sshKeyIds),
    user_data: Type.Optional(userData),
    ...otherNewFields,
    ready_timeout_seconds: Type.Optional(readyTimeout),
  },
  {
    $id: 'InstanceCreate',
    description: 'Parameters of a new instance.',
    additionalProperties: false,
    examples: [
      {
        region: 'us-east-1',
        plan: 'standard-4x',
        image: 'ubuntu-22.04-lts',
        network: { subnet_id: 'sub_8f7e6d5c4b', assign_public_ip: true },
        tags: { env: 'production', app: 'api-server' },
      },
    ],
  },
)
export type CreateBody = Static<typeof InstanceCreate>

const ignored = Type.Optional(
  Type.Unknown({ description: 'Read-only; ignored, so that the output of GET can be sent back.' }),
)
const fixed = (of: string) =>
  Type.Optional(Text({ maxLength: 64, description: `The ${of} cannot be changed. The current value is accepted.` }))

const { name: changedName, tags: changedTags, ...otherChangedFields } = updateFields

export const InstanceUpdate = Type.Object(
  {
    name: changedName,
    plan: Type.Optional(plan),
    tags: changedTags,
    network: Type.Optional(
      Type.Object(
        {
          subnet_id: fixed('subnet'),
          assign_public_ip: Type.Optional(
            Type.Boolean({ description: 'Assign or unassign a public IP address, without a reboot.' }),
          ),
          ports: Type.Optional(
            Type.Array(
              Type.Union([
                port,
                Type.Object(
                  { port, public_port: ignored },
                  { additionalProperties: false, description: 'A port as GET returns it.' },
                ),
              ]),
              { maxItems: 50, description: 'The ports cannot be changed. The current value is accepted.' },
            ),
          ),
        },
        { additionalProperties: false, description: 'Network configuration.' },
      ),
    ),
    ...otherChangedFields,
    desired_status: Type.Optional(OneOf(['running', 'stopped'], 'Starts or stops the instance.')),
    id: fixed('ID'),
    region: fixed('region'),
    image: fixed('image'),
    image_id: fixed('image'),
    hostname: fixed('host name'),
    status: ignored,
    status_reason: ignored,
    public_ip: ignored,
    private_ip: ignored,
    links: ignored,
    deployment_id: ignored,
    ready_timeout_seconds: ignored,
    ssh: ignored,
    environment: ignored,
    created_at: ignored,
    ready_at: ignored,
    terminated_at: ignored,
    expires_at: ignored,
    created_by: ignored,
    updated_at: ignored,
    version: ignored,
  },
  {
    $id: 'InstanceUpdate',
    description: 'Changes to an instance. Omitted fields keep their values. Either all changes are made or none.',
    additionalProperties: false,
    examples: [{ tags: { env: 'staging' } }],
  },
)
export type UpdateBody = Static<typeof InstanceUpdate>

/** Optional body of start, which has no options. */
export const NoOptions = Type.Object(
  {},
  { title: 'NoOptions', additionalProperties: false, description: 'No options.' },
)

/** Optional body of stop and reboot. */
export const PowerAction = Type.Object(
  {
    timeout_seconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 3600,
        default: 60,
        description: 'How long the guest may take to power off before it is stopped by force.',
      }),
    ),
    force: Type.Optional(Type.Boolean({ description: 'Stop the guest immediately, without a clean shutdown.' })),
  },
  { title: 'PowerAction', additionalProperties: false, description: 'How to stop the guest.' },
)
export type ActionBody = Static<typeof PowerAction>

/** Optional body of rebuild. */
export const Rebuild = Type.Object(
  {
    image: Type.Optional(image),
    user_data: Type.Optional(userData),
    ssh_keys: Type.Optional(sshKeyIds),
  },
  {
    title: 'Rebuild',
    additionalProperties: false,
    description: 'Changes for the new disk. Omitted fields keep their values.',
  },
)
export type RebuildBody = Static<typeof Rebuild>

const words = (word: string) => `^(${word})(,(${word}))*$`
const slugs = '[A-Za-z0-9._-]{1,64}'

/** Query parameters of the list. */
export const instanceFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: words(STATUSES.join('|')),
      'x-rule': `one or more of ${STATUSES.join(', ')}, separated by commas`,
      description: 'Filter by status. Without this filter, terminated instances are omitted.',
    }),
  ),
  region: Type.Optional(
    Type.String({
      pattern: words(slugs),
      'x-rule': 'region IDs, separated by commas',
      description: 'Filter by region.',
    }),
  ),
  plan: Type.Optional(
    Type.String({ pattern: words(slugs), 'x-rule': 'plan IDs, separated by commas', description: 'Filter by plan.' }),
  ),
  image: Type.Optional(
    Type.String({
      pattern: words(slugs),
      'x-rule': 'image names or IDs, separated by commas',
      description: 'Filter by image: the name in the create request, or the ID.',
    }),
  ),
  deployment_id: Type.Optional(
    Type.String({
      pattern: words('dep_[0-9a-z]{10}'),
      'x-rule': 'deployment IDs, separated by commas',
      description: 'Filter by deployment.',
    }),
  ),
  created_by: Type.Optional(
    Type.String({
      pattern: words('key_[0-9a-z]{10}'),
      'x-rule': 'API key IDs, separated by commas',
      description: 'Filter by the API key that created the instance.',
    }),
  ),
  name: Type.Optional(
    Type.String({
      pattern: '^[A-Za-z0-9._ ,-]{1,640}$',
      'x-rule': 'names, separated by commas',
      description: 'Filter by name.',
    }),
  ),
  tag: Type.Optional(
    Type.Array(Type.String({ pattern: '^[A-Za-z0-9._/-]{1,63}:[^\\p{Cc}\\p{Cs}]{0,256}$', 'x-rule': 'key:value' }), {
      maxItems: 50,
      description: 'Filter by tag, as `key:value`, split at the first colon. Can be repeated; all must match.',
    }),
  ),
}
export type Filters = {
  status?: string
  region?: string
  plan?: string
  image?: string
  deployment_id?: string
  created_by?: string
  name?: string
  tag?: string[]
}
