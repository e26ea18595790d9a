/** The documented request body of "Create an Instance". */
export const DOCUMENTED_BODY = `{
  "region": "us-east-1",
  "plan": "standard-4x",
  "image": "ubuntu-22.04-lts",
  "network": {
    "subnet_id": "sub_8f7e6d5c4b",
    "assign_public_ip": true
  },
  "tags": {"env": "production", "app": "api-server"}
}`
